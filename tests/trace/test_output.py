"""What a trace program refuses to write over, and that a failed one leaves what was there."""

from __future__ import annotations

from pathlib import Path

import pytest
from dualpath.core.errors import TraceError
from dualpath.core.trajectory import Trajectory, Turn
from dualpath.trace.commands import export_trace, import_trace
from dualpath.trace.output import check_output
from dualpath.trace.schema import TraceMeta
from dualpath.trace.writer import TraceWriter

META = TraceMeta(source="test", licence="none")


def test_folders_devices_sources_and_nothing_are_refused(tmp_path: Path, write) -> None:
    trace = write([Trajectory("a", (Turn(10, 1),))])
    with pytest.raises(TraceError, match="is no regular file"):
        check_output(tmp_path)
    with pytest.raises(TraceError, match="is no regular file"):
        check_output(Path("/dev/null"))
    with pytest.raises(TraceError, match="is no file name"):
        check_output(Path())
    with pytest.raises(TraceError, match="cannot be written"):
        check_output(tmp_path / ("x" * 300))
    with pytest.raises(TraceError, match="is the source itself"):
        export_trace("mooncake", trace, trace)
    with pytest.raises(TraceError, match="is the source itself"):
        import_trace("table", trace, trace)


def test_a_failed_write_leaves_the_file_of_before(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(b"precious")
    with pytest.raises(TraceError, match="nothing to write"), TraceWriter(path, META):
        pass
    with pytest.raises(TraceError, match="0 turns"), TraceWriter(path, META) as writer:
        writer.write(Trajectory("b", ()))
    assert path.read_bytes() == b"precious"
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.parquet"]
