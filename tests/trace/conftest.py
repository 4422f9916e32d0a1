"""Shared by the trace tests: where published traces may lie, and how to write a small trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from dualpath.core.trajectory import Trajectory
from dualpath.trace.schema import TraceMeta
from dualpath.trace.writer import TraceWriter

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write(trajectories, **metadata) -> path of a trace file."""

    def _write(trajectories: Sequence[Trajectory], name: str = "trace.parquet", **meta: object) -> Path:
        path = tmp_path / name
        with TraceWriter(path, TraceMeta(source="test", licence="none", **meta)) as writer:  # type: ignore[arg-type]
            for trajectory in trajectories:
                writer.write(trajectory)
        return path

    return _write


@pytest.fixture
def shared_traces() -> Path:
    folder = Path(__file__).parents[3] / "shared" / "traces"
    if not folder.is_dir():
        pytest.skip(f"published traces are not at {folder}")
    return folder
