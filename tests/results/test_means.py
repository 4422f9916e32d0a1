from __future__ import annotations

import math

import numpy as np
import pytest
from dualpath.results.intervals import Interval
from dualpath.results.means import mean_interval


def _of(values: list[float], groups: list[int]) -> Interval | None:
    return mean_interval(np.array(values), np.array(groups, np.int64))


def test_groups_are_drawn_as_a_whole() -> None:
    assert _of([1.0, 3.0, 8.0, 10.0], [0, 0, 1, 1]) == Interval(5.5, 2.0, 9.0)


def test_one_failure_makes_a_mean_infinite_and_its_lower_end_may_be_without() -> None:
    found = _of([1.0] * 5 + [math.inf], [0, 1, 2, 3, 4, 5])
    assert found == Interval(math.inf, 1.0, math.inf)


def test_turns_without_a_value_are_left_out_with_groups_that_have_none() -> None:
    assert _of([math.nan, 4.0, math.nan], [0, 1, 2]) == Interval(4.0, 4.0, 4.0)
    assert _of([math.nan], [0]) is None


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(3), 0
    groups = np.repeat(np.arange(60), 5)
    for _ in range(200):
        found = mean_interval(rng.normal(1.0, 2.0, 300), groups, count=400)
        assert found is not None
        held += found.low <= 1.0 <= found.high
    assert held == pytest.approx(188, abs=10)
