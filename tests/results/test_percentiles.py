from __future__ import annotations

import math

import numpy as np
import pytest
from dualpath.results.percentiles import percentile_intervals


def _of(values: list[float], groups: list[int], *quantiles: float) -> list[tuple[float, float, float] | None]:
    found = percentile_intervals(np.array(values), np.array(groups), quantiles)
    return [each and (each.value, each.low, each.high) for each in found]


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(each) for each in range(1, 101)]
    found = _of(values, list(range(100)), 0.5, 0.99, 1.0)
    assert [each and each[0] for each in found] == [50, 99, 100]


def test_turns_of_one_trajectory_stay_together() -> None:
    """Two agents: what is drawn is both, or one of them twice."""
    (found,) = _of([1.0, 1.0, 1.0, 9.0, 9.0, 9.0], [0, 0, 0, 1, 1, 1], 0.5)
    assert found == (1.0, 1.0, 9.0)
    (narrow,) = _of([1.0, 9.0] * 50, list(range(100)), 0.9)
    assert narrow == (9.0, 9.0, 9.0)


def test_failures_are_infinite_and_show_from_the_percentile_on_that_they_reach() -> None:
    values = [1.0] * 98 + [math.inf] * 2
    median, late = _of(values, list(range(100)), 0.5, 0.99)
    assert median == (1.0, 1.0, 1.0)
    assert late is not None
    assert late[0] == math.inf
    assert late[1] == 1.0  # neither might have been drawn
    assert late[2] == math.inf


def test_turns_without_a_value_are_left_out() -> None:
    assert _of([math.nan, 2.0, math.nan], [0, 1, 2], 0.5) == [(2.0, 2.0, 2.0)]
    assert _of([math.nan], [0], 0.5, 0.9) == [None, None]


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """The median of an exponential law, 200 times, from 60 agents of 5 turns each."""
    rng, held = np.random.default_rng(2), 0
    groups = np.repeat(np.arange(60), 5)
    for _ in range(200):
        (found,) = percentile_intervals(rng.exponential(1.0, 300), groups, (0.5,), count=400)
        assert found is not None
        held += found.low <= math.log(2) <= found.high
    assert held == pytest.approx(190, abs=10)
