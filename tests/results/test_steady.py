from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from dualpath.core.errors import RunError
from dualpath.results.run import Run
from dualpath.results.steady import Ruling, Window, ruling, steady_window
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


def _online(directory: Path, ttft_s: Sequence[float]) -> Run:
    """One agent of one turn every 50 s, with these TTFTs."""
    rows = [
        turn(f"t{k}", 0, 50 * k * S, int((50 * k + 30) * S), first_token_ns=int((50 * k + ttft) * S))
        for k, ttft in enumerate(ttft_s)
    ]
    return Run.load(write_run(directory, rows, feed={"mode": "online", "rate_per_s": 1 / 50}))


def test_the_papers_rule_takes_the_first_window_that_is_as_fast_as_half_an_hour_earlier(tmp_path: Path) -> None:
    """Three turns per window of 150 s. TTFT rises by 10 % in the first half hour, and stays."""
    run = _online(tmp_path / "r", [2.0 + 0.2 * min(k // 3, 12) / 12 for k in range(3 * 40)])
    # 2.2 s against 2.1 s of window 6, 30 minutes before window 18, is 4.8 %; a window earlier it is 5.6 %
    window = Window(18 * 150 * S, 19 * 150 * S)
    assert ruling(run) == Ruling("mean-150s-30min", window, "mean TTFT within 5% of 30 minutes earlier")
    assert steady_window(run) is None  # links are judged by the other rule


@pytest.mark.parametrize(
    ("ttft_s", "reason"),
    [
        ([2.0] * 9 + [4.1] * 3, "not steady: overloaded at 600 s"),
        ([2.0] * 30, "not steady: arrivals ended after about 1500 s"),
        ([2.0], "not steady: arrivals ended after about 50 s"),  # long before the window does
    ],
)
def test_a_run_that_is_never_steady_has_no_window(tmp_path: Path, ttft_s: list[float], reason: str) -> None:
    assert ruling(_online(tmp_path / "r", ttft_s)) == Ruling("mean-150s-30min", None, reason)


def test_a_ruling_says_why(tmp_path: Path) -> None:
    few = _run(tmp_path / "few", [11, 12, 13], arm="dualpath")
    assert ruling(few) == Ruling("cold-start-to-half", None, "3 agents are too few, 8 are wanted")
    looping = Window(1_900_000_000, 16 * S)
    reason = "5 or more of 10 agents loop"
    assert ruling(_run(tmp_path / "r", range(11, 21))) == Ruling("cold-start-to-half", looping, reason)
    recorded = _run(tmp_path / "recorded", range(11, 21), feed={"mode": "recorded"})
    assert ruling(recorded) == Ruling("none", None, "no rule for recorded arrivals")
