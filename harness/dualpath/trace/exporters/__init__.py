"""Write traces in formats of other projects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dualpath.core.errors import TraceError
from dualpath.trace.exporters import mooncake
from dualpath.trace.exporters.mooncake import ExportReport
from dualpath.trace.output import check_output
from dualpath.trace.reader import TraceFile

__all__ = ["FORMATS", "ExportReport", "export_trace"]

FORMATS: dict[str, Callable[[TraceFile, Path], ExportReport]] = {"mooncake": mooncake.write}


def export_trace(format: str, path: Path | str, out: Path | str) -> ExportReport:
    """Read the trace `path`, write `out` in `format`. Raises TraceError; then there is no `out`."""
    if format not in FORMATS:
        raise TraceError(f"format {format!r} is unknown; the formats are {', '.join(FORMATS)}")
    out = Path(out)
    check_output(out, Path(path))
    with TraceFile.open(path) as trace:
        return FORMATS[format](trace, out)
