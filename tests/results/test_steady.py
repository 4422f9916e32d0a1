from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from dualpath.core.errors import RunError
from dualpath.results.run import Run
from dualpath.results.steady import Window, steady_window
from synthetic import S, turn, write_run


def _run(directory: Path, ends_s: Sequence[int], **manifest: Any) -> Run:
    """One trajectory per end; trajectory i finishes its first turn at 1 + i / 10 s."""
    rows = []
    for index, end_s in enumerate(ends_s):
        first = S + index * S // 10
        rows += [turn(f"t{index}", 0, 0, first), turn(f"t{index}", 1, first, end_s * S)]
    return Run.load(write_run(directory, rows, **manifest))


def test_ends_when_fewer_than_half_are_unfinished(tmp_path: Path) -> None:
    run = _run(tmp_path / "r", range(11, 21))  # 10 agents, layerwise on one SNIC: half = 5 > 4
    assert steady_window(run) == Window(1_900_000_000, 16 * S)  # at 16 s the sixth ends, 4 are left


def test_four_agents_per_readable_snic_decide_where_they_are_more_than_half(tmp_path: Path) -> None:
    run = _run(tmp_path / "r", range(11, 21), arm="dualpath")  # 2 SNICs: 8 > half
    assert steady_window(run) == Window(1_900_000_000, 13 * S)  # at 13 s the third ends, 7 are left


def test_half_of_an_odd_number_of_agents(tmp_path: Path) -> None:
    run = _run(tmp_path / "r", range(11, 20))  # 9 agents: half = 4.5, so 4 left is below it
    assert steady_window(run) == Window(1_800_000_000, 15 * S)


def test_no_window_with_too_few_agents_a_long_cold_start_or_another_feed(tmp_path: Path) -> None:
    assert steady_window(_run(tmp_path / "few", [11, 12, 13], arm="dualpath")) is None
    rows = [turn(f"t{index}", 0, 0, (index + 1) * S) for index in range(10)]  # one turn each
    assert steady_window(Run.load(write_run(tmp_path / "cold", rows))) is None
    assert steady_window(_run(tmp_path / "online", range(11, 21), feed={"mode": "online"})) is None


def test_an_arm_that_reads_nothing_is_judged_by_half_of_the_agents(tmp_path: Path) -> None:
    window = steady_window(_run(tmp_path / "r", [11, 12, 13], arm="oracle"))
    assert window == Window(1_200_000_000, 12 * S)


def test_void_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="void"):
        steady_window(_run(tmp_path / "r", range(11, 21), status="void"))
