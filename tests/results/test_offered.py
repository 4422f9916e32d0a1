"""A run is judged in the window where the rule stops it, by when its turns fell due."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from dualpath.core.errors import RunError
from dualpath.results.offered import offered
from dualpath.results.run import Run
from dualpath.results.slo import parse_slo
from synthetic import S, turn, write_run

SLO = parse_slo("ttft=4s")


def online(directory: Path, ttft_s: list[float], **run: Any) -> Run:
    """A trajectory of one turn falls due every second."""
    turns = [
        turn(f"t{due}", 0, due * S, due * S + int((ttft + 1) * S), first_token_ns=due * S + int(ttft * S))
        for due, ttft in enumerate(ttft_s)
    ]
    feed = {"mode": "online", "rate_per_s": 1.0}
    return Run.load(write_run(directory, turns, backend="sim", feed=feed, **run))


def test_a_steady_run_is_judged_in_its_steady_window(tmp_path: Path) -> None:
    ttft_s = [3.0] * 10 + [1.0] * 115 + [3.5] * 25
    judged = offered(online(tmp_path / "run", ttft_s), SLO, window_s=10)
    assert (judged.stop.reason, judged.stop.start_s, judged.turns) == ("arrivals ended", 140, 10)
    assert judged.latencies_ns["ttft_ns"] == 3.5e9
    judged = offered(online(tmp_path / "longer", [1.0] * 150), SLO, window_s=10)
    assert (judged.stop.reason, judged.stop.start_s) == ("steady", 120)
    assert SLO.is_met(judged.latencies_ns)


def test_turns_that_an_overloaded_system_leaves_waiting_count_where_they_fell_due(tmp_path: Path) -> None:
    """No first token comes in the second window, and those of its turns are late: by first tokens it would be empty."""
    run = online(tmp_path / "run", [1.0] * 10 + [90.0] * 10)
    judged = offered(run, SLO, window_s=10)
    assert (judged.stop.reason, judged.turns, judged.latencies_ns["ttft_p50_ns"]) == ("overloaded", 10, 90e9)
    assert not SLO.is_met(judged.latencies_ns)


def test_an_slo_without_mean_ttft_knows_no_overload_and_judges_the_last_window(tmp_path: Path) -> None:
    slo = parse_slo("ttft_p99=4s")
    judged = offered(online(tmp_path / "run", [9.0] * 10 + [1.0] * 10), slo, window_s=10)
    assert (judged.stop.reason, slo.is_met(judged.latencies_ns)) == ("arrivals ended", True)
    judged = offered(online(tmp_path / "late", [1.0] * 19 + [9.0]), slo, window_s=10)
    assert not slo.is_met(judged.latencies_ns)


def test_arrivals_that_leave_a_gap_or_end_early_are_judged_where_turns_are(tmp_path: Path) -> None:
    judged = offered(online(tmp_path / "run", [1.0] * 5), SLO, window_s=150)
    assert (judged.stop.window, judged.turns) == (0, 5)
    turns = [turn("a", 0, 0, S), turn("b", 0, 12 * S, 13 * S)]
    feed = {"mode": "online", "rate_per_s": 0.01}
    judged = offered(Run.load(write_run(tmp_path / "sparse", turns, feed=feed)), SLO, window_s=10)
    assert (judged.stop.window, judged.turns) == (1, 1)


def test_a_window_in_which_no_turn_fell_due_decides_nothing(tmp_path: Path) -> None:
    """Its latencies are none, and none is above a limit."""
    feed = {"mode": "online", "rate_per_s": 1.0}
    run = Run.load(write_run(tmp_path / "run", [turn("late", 0, 12 * S, 13 * S)], feed=feed))
    with pytest.raises(RunError, match=r"no turn fell due from 0 to 10 s, .* \(--arrivals-s, or more --agents\)"):
        offered(run, SLO, window_s=10)
    assert offered(run, SLO, window_s=20).turns == 1


def test_a_void_run_decides_nothing(tmp_path: Path) -> None:
    run = online(tmp_path / "run", [1.0], status="void", reasons=["interrupted"])
    with pytest.raises(RunError, match="void"):
        offered(run, SLO, window_s=math.inf)
