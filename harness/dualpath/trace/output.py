"""Where a trace program may write: a new file or an earlier result, never its own source, a folder or a device."""

from __future__ import annotations

from pathlib import Path

from dualpath.core.errors import TraceError


def check_output(out: Path, source: Path | None = None) -> None:
    """Raises TraceError."""
    if not out.name:
        raise TraceError(f"{str(out)!r} is no file name; give the path of the file to write")
    try:
        if out.exists() and not out.is_file():
            raise TraceError(f"{out}: exists and is no regular file; write somewhere else")
        if source is not None and out.exists() and source.exists() and out.samefile(source):
            raise TraceError(f"{out}: is the source itself, and would be replaced; write somewhere else")
        if not out.parent.is_dir():
            raise TraceError(f"{out}: its folder does not exist; make it, or write somewhere else")
    except OSError as error:
        raise TraceError(f"{out}: cannot be written ({error.strerror}); write somewhere else") from None
