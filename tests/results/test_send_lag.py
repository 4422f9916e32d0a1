from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dualpath.results.run import Run
from dualpath.results.send_lag import FLOOR_NS, SHARE, SendLag, send_lag
from synthetic import MS, S, turn, write_run


def _lag(directory: Path, rows: list[dict[str, Any]], **manifest: Any) -> SendLag:
    found = send_lag(Run.load(write_run(directory, rows, **manifest)))
    assert found is not None
    return found


def _sent(lag_ns: int, ttft_ns: int, index: int = 0) -> dict[str, Any]:
    return turn(f"t{index}", 0, 0, 2 * ttft_ns, released_ns=lag_ns, first_token_ns=ttft_ns)


def test_the_lag_of_a_first_turn_counts_from_when_it_was_due(tmp_path: Path) -> None:
    found = _lag(tmp_path / "r", [turn("a", 0, 5 * S, 6 * S, released_ns=5 * S + 3 * MS)])
    assert (found.p50_ns, found.p99_ns, found.max_ns) == (3 * MS, 3 * MS, 3 * MS)


def test_waiting_for_the_blocks_of_the_turn_before_is_no_lag(tmp_path: Path) -> None:
    before = turn("a", 0, 0, S, released_ns=0, persisted_ns=S + 50 * MS)
    found = _lag(tmp_path / "r", [before, turn("a", 1, S, 2 * S, released_ns=S + 52 * MS)])
    assert found.max_ns == 2 * MS


def test_a_gap_longer_than_persisting_counts_from_its_end(tmp_path: Path) -> None:
    before = turn("a", 0, 0, S, released_ns=0, persisted_ns=S + 50 * MS)
    found = _lag(tmp_path / "r", [before, turn("a", 1, 3 * S, 4 * S, released_ns=3 * S + 7 * MS)])
    assert found.max_ns == 7 * MS


def test_a_sub_agent_waits_for_the_blocks_of_the_turn_that_started_it(tmp_path: Path) -> None:
    parent = turn("a", 0, 0, S, released_ns=0, persisted_ns=S + 50 * MS)
    found = _lag(tmp_path / "r", [parent, turn("sub", 0, S, 2 * S, released_ns=S + 51 * MS)])
    assert found.max_ns == 1 * MS


@pytest.mark.parametrize(
    ("lag_ns", "ttft_ns", "is_degraded"),
    [
        (FLOOR_NS, 1 * MS, False),  # the floor itself is allowed, however fast the engines are
        (FLOOR_NS + 1, 1 * MS, True),
        (SHARE * 2 * S, 2 * S, False),  # so is 1 %
        (SHARE * 2 * S + 1, 2 * S, True),
        (0, 0, False),
    ],
)
def test_the_edges_of_the_rule(tmp_path: Path, lag_ns: float, ttft_ns: int, is_degraded: bool) -> None:
    assert _lag(tmp_path / "r", [_sent(int(lag_ns), ttft_ns)]).is_degraded is is_degraded


def test_one_late_turn_of_a_hundred_is_the_last_per_cent_and_two_are_not(tmp_path: Path) -> None:
    punctual = [_sent(0, S, index) for index in range(98)]
    once = [*punctual, _sent(0, S, 98), _sent(S // 2, S, 99)]
    twice = [*punctual, _sent(S // 2, S, 98), _sent(S // 2, S, 99)]
    assert not _lag(tmp_path / "once", once).is_degraded
    assert _lag(tmp_path / "once-more", once).max_ns == S // 2
    assert _lag(tmp_path / "twice", twice).degraded_at == ("p99",)


def test_a_lag_at_the_median_is_held_against_the_median_not_the_slowest(tmp_path: Path) -> None:
    rows = [_sent(20 * MS, S, index) for index in range(90)] + [_sent(20 * MS, 100 * S, 90 + k) for k in range(10)]
    found = _lag(tmp_path / "r", rows)
    assert found.degraded_at == ("p50",)


def test_a_void_run_is_judged_by_the_turns_that_ended(tmp_path: Path) -> None:
    cut = {**turn("b", 0, 0, S, released_ns=30 * MS), "status": "unfinished", "end_ns": None, "persisted_ns": None}
    found = _lag(tmp_path / "r", [_sent(0, S), cut], status="void", reasons=["interrupted"])
    assert (found.max_ns, found.p99_limit_ns) == (30 * MS, 10 * MS)
    assert found.is_degraded


def test_a_run_that_sent_nothing_has_no_lag(tmp_path: Path) -> None:
    assert send_lag(Run.load(write_run(tmp_path / "r", [], status="void", reasons=["interrupted"]))) is None


def test_virtual_time_is_never_late(tmp_path: Path) -> None:
    """What a simulation puts before a release is a part of the system it simulates."""
    assert send_lag(Run.load(write_run(tmp_path / "r", [_sent(155 * MS, S)], backend="sim"))) is None
