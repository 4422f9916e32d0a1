from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dualpath.results.latencies import LATENCIES, Latency, LatencyName, latencies
from dualpath.results.run import Run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic import MS, S, turn, write_run


def _of(runs: Run | list[Run], name: LatencyName = "turn_latency") -> Latency:
    return next(found for found in latencies(runs) if found.name == name)


def _unfinished(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "status": "unfinished", "end_ns": None, "persisted_ns": None}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    turns=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 9), st.booleans()), min_size=1, max_size=30),
    never_due=st.integers(0, 5),
)
def test_a_turn_that_did_not_end_is_infinite_and_none_is_dropped(
    tmp_path_factory: pytest.TempPathFactory, turns: list[tuple[int, int, bool]], never_due: int
) -> None:
    """turns: agent, seconds, whether it ended. Against a list with an infinite entry for each that did not."""
    rows = [
        row if ended else _unfinished(row)
        for index, (agent, seconds, ended) in enumerate(turns)
        for row in [turn(f"a{agent}", index, index * S, (index + seconds) * S)]
    ]
    planned = len(rows) + never_due
    directory = tmp_path_factory.mktemp("run") / "r"
    found = _of(Run.load(write_run(directory, rows, status="void", reasons=["cut"], turns_planned=planned)))
    expected = [seconds * S if ended else math.inf for _, seconds, ended in turns] + [math.inf] * never_due
    expected.sort()
    assert (found.turns, found.failed) == (planned, expected.count(math.inf))
    assert found.mean is not None
    assert found.mean.value == pytest.approx(sum(expected) / planned)
    for share, percentile in ((0.5, found.p50), (0.95, found.p95), (0.99, found.p99)):
        assert percentile is not None
        assert percentile.value == expected[math.ceil(share * planned) - 1]
        assert percentile.low <= percentile.value <= percentile.high


def test_latency_counts_from_when_a_turn_was_due_however_late_it_was_sent(tmp_path: Path) -> None:
    row = turn("a", 0, S, 5 * S, released_ns=3 * S, first_token_ns=4 * S, second_token_ns=4 * S + MS)
    run = Run.load(write_run(tmp_path / "r", [row]))
    means = {found.name: found.mean and found.mean.value for found in latencies(run)}
    assert means == {"ttft": 3 * S, "ttst": MS, "tpot": S / 2, "turn_latency": 4 * S}
    assert set(means) == set(LATENCIES)


def test_turns_of_one_token_have_no_latency_of_later_tokens(tmp_path: Path) -> None:
    run = Run.load(write_run(tmp_path / "r", [turn("a", 0, 0, S, generate_tokens=1), turn("b", 0, 0, 8 * S)]))
    assert (_of(run).turns, _of(run, "ttst").turns) == (2, 1)
    alone = _of(Run.load(write_run(tmp_path / "s", [turn("a", 0, 0, S, generate_tokens=1)])), "tpot")
    assert alone == Latency("tpot", 0, 0, 0.0, None, None, None, None)


@pytest.mark.parametrize(("of_several_planned", "expected"), [(4, (4, 3)), (2, (2, 1)), (None, (8, 7))])
def test_failed_turns_of_one_token_have_no_latency_of_later_tokens(
    tmp_path: Path, of_several_planned: int | None, expected: tuple[int, int]
) -> None:
    """10 turns: one ended, one of several tokens and two of a single one failed, 6 were never due."""
    rows = [turn("a", 0, 0, S)]
    rows += [_unfinished(turn(f"b{index}", 0, 0, S, generate_tokens=count)) for index, count in enumerate((3, 1, 1))]
    facts = {"turns_planned": 10, "turns_of_several_tokens_planned": of_several_planned}
    run = Run.load(write_run(tmp_path / "r", rows, status="void", reasons=["cut"], **facts))
    assert [(_of(run, name).turns, _of(run, name).failed) for name in ("ttft", "turn_latency")] == [(10, 9)] * 2
    assert [(_of(run, name).turns, _of(run, name).failed) for name in ("ttst", "tpot")] == [expected] * 2


def test_a_run_that_did_nothing_failed_in_every_turn(tmp_path: Path) -> None:
    found = _of(Run.load(write_run(tmp_path / "r", [], status="void", reasons=["cut"], turns_planned=7)))
    assert (found.turns, found.failed) == (7, 7)
    assert found.p50 is not None
    assert found.p50.value == math.inf
    assert not found.p50.is_known, "nothing tells agents or times apart"


def test_no_latency_is_below_0_however_much_is_added_up(tmp_path: Path) -> None:
    """24 agents of one turn each, a few of them very slow: both ways of resampling reach almost down to 0."""
    rows = [turn(f"a{index}", 0, index * S, index * S + (300 * S if index % 11 == 3 else MS)) for index in range(24)]
    mean = _of(Run.load(write_run(tmp_path / "r", rows))).mean
    assert mean is not None
    assert (mean.low, mean.is_known) == (0.0, True)
    assert mean.high > mean.value


def _wandering(directory: Path, share: float, seed: int) -> Run:
    """24 agents whose turns come in rotation; latencies wander together: x[k] = share x[k-1] + noise, median 8 s."""
    rng, level, rows = np.random.default_rng(seed), 0.0, []
    level = rng.normal()
    for index in range(960):
        rows.append(turn(f"a{index % 24}", index // 24, index * S, int((index + 8 + level) * S)))
        level = share * level + math.sqrt(1 - share**2) * rng.normal()
    return Run.load(write_run(directory, rows))


@pytest.mark.parametrize("share", [0.0, 0.8])
def test_turns_are_worth_what_theory_says_and_intervals_know_it(tmp_path: Path, share: float) -> None:
    """Worth n (1 - share) / (1 + share) for the mean, in each of two repeats. Trajectories would not show it: each has
    turns of all times."""
    runs = [_wandering(tmp_path / f"r{seed}", share, seed) for seed in range(2)]
    found = _of(runs)
    assert found.turns == 1920
    assert found.effective == pytest.approx(1920 * (1 - share) / (1 + share), rel=0.25)
    assert found.mean is not None
    by_time, by_agent = found.effective, 1920  # an agent's turns are far apart; both ways are added up
    expected_width = 2 * 1.96 * math.hypot(by_time**-0.5, by_agent**-0.5) * S
    assert found.mean.high - found.mean.low == pytest.approx(expected_width, rel=0.3)
