"""What is read off an online run of the paper where it stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dualpath.core.errors import RunError
from dualpath.paper.online import measure
from dualpath.results.run import Run
from synthetic import S, turn, write_run


def write_online(directory: Path, turns: list[dict[str, Any]], span_s: int) -> Run:
    agents = len({row["trajectory"] for row in turns})
    feed = {"mode": "online", "rate_per_s": agents / span_s}
    return Run.load(write_run(directory, turns, backend="sim", feed=feed))


def steady_turns(ttft_s: float, windows: int) -> list[dict[str, Any]]:
    """One trajectory of one turn per 50 s: 1 s of schedule, 0 of allocate, 2 of read, the rest of TTFT in prefill."""
    found = []
    for k in range(3 * windows):
        due, first = 50 * k * S, int((50 * k + ttft_s) * S)
        found.append(
            turn(
                f"t{k}",
                0,
                due,
                first + 20 * S,
                scheduled_ns=due + S // 2,
                read_start_ns=due + S // 2,
                read_end_ns=due + int(ttft_s * S / 2),
                first_token_ns=first,
                second_token_ns=first + 2 * S,
                generate_tokens=11,
            )
        )
    return found


def test_latencies_are_those_of_the_last_window(tmp_path: Path) -> None:
    turns = steady_turns(2.0, 16)
    point = measure(write_online(tmp_path / "run", turns, 50 * len(turns)))
    assert (point.stop_s, point.reason) == (1950, "steady")
    assert point.ttft_s == pytest.approx(2.0)
    assert point.ttst_s == pytest.approx(2.0)
    assert point.tpot_s == pytest.approx(18 / 9)  # the nine tokens after the second
    assert point.parts == pytest.approx({"schedule": 0.25, "allocate": 0.0, "read": 0.25, "prefill": 0.5})
    assert sum(point.parts.values()) == pytest.approx(1)
    assert point.trajectory_s == pytest.approx(22)
    assert point.begun_trajectory_s == pytest.approx(22)
    assert point.live_tokens == pytest.approx(128 * 22 / 50)  # under way for 22 of every 50 s
    assert not point.is_within_slo  # TPOT


def test_trajectories_still_under_way_are_not_counted_as_ended(tmp_path: Path) -> None:
    turns = steady_turns(2.0, 16)
    turns[0]["end_ns"] = 3000 * S
    point = measure(write_online(tmp_path / "run", turns, 50 * len(turns)))
    assert point.trajectory_s == pytest.approx(22)
    assert point.begun_trajectory_s > 22


def test_an_overloaded_run_stops_at_once(tmp_path: Path) -> None:
    turns = steady_turns(2.0, 16)
    for row in turns[9:12]:  # the fourth window
        row["first_token_ns"] += 3 * S
    point = measure(write_online(tmp_path / "run", turns, 50 * len(turns)))
    assert (point.stop_s, point.reason) == (600, "overloaded")
    assert point.ttft_s == pytest.approx(5.0)


def test_a_void_run_has_no_point(tmp_path: Path) -> None:
    run = Run.load(write_run(tmp_path / "run", [turn("a", 0, 0, S)], status="void", reasons=["interrupted"]))
    with pytest.raises(RunError, match="void"):
        measure(run)
