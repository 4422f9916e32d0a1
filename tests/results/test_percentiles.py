from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from dualpath.results.intervals import FEWEST_GROUPS, resamples
from dualpath.results.percentiles import nearest_rank, percentile_intervals
from dualpath.results.student import expanded_tail
from hypothesis import given
from hypothesis import strategies as st


def _of(values: list[float], groups: list[int], *quantiles: float) -> list[tuple[float, float, float] | None]:
    found = percentile_intervals(np.array(values), np.array(groups), quantiles)
    return [each and (each.value, each.low, each.high) for each in found]


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(each) for each in range(1, 101)]
    found = _of(values, list(range(100)), 0.5, 0.99, 1.0)
    assert [each and each[0] for each in found] == [50, 99, 100]


def test_turns_of_one_trajectory_stay_together() -> None:
    """Six agents: which are drawn decides on which side the median is."""
    (found,) = _of([1.0] * 9 + [9.0] * 9, [index // 3 for index in range(18)], 0.5)
    assert found == (1.0, 1.0, 9.0)
    (few,) = _of([1.0] * 9 + [9.0] * 6, [index // 3 for index in range(15)], 0.5)
    assert few == (1.0, -math.inf, math.inf), "five: too few"
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
    assert _of([math.nan, 2.0, math.nan], [0, 1, 2], 0.5) == [(2.0, -math.inf, math.inf)]
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


_LATENCY = st.sampled_from([1.0, 2.0, 3.5, 7.0, math.inf, math.nan])


@given(
    turns=st.lists(st.tuples(_LATENCY, st.integers(0, 9)), min_size=1, max_size=40),
    quantile=st.sampled_from([0.01, 0.5, 0.95, 0.99, 1.0]),
)
def test_it_is_what_writing_out_every_resample_gives(turns: list[tuple[float, int]], quantile: float) -> None:
    """The plain way: draw groups, write their turns in a list, sort it, take the one at the rank."""
    turns = [(value, group) for value, group in turns if not math.isnan(value)]
    (found,) = percentile_intervals(
        np.array([value for value, _ in turns]),
        np.array([group for _, group in turns], np.int64),
        (quantile,),
        count=40,
    )
    if not turns:
        assert found is None
        return
    num_groups = max(group for _, group in turns) + 1

    def at_rank(values: list[float], share: float) -> float:
        return sorted(values)[max(1, math.ceil(share * len(values))) - 1]

    samples = []
    for drawn in np.concatenate(list(resamples(num_groups, 1, 0, 40))):
        values = [value for value, group in turns for _ in range(int(drawn[group]))]
        samples += [at_rank(values, quantile)] if values else []
    assert found is not None
    assert found.value == at_rank([value for value, _ in turns], quantile)
    if (num := len({group for _, group in turns})) < FEWEST_GROUPS:
        assert not found.is_known
    else:
        tail = expanded_tail(0.025, num)
        assert (found.low, found.high) == (at_rank(samples, tail), at_rank(samples, 1 - tail))


@given(
    st.lists(st.floats(0, 1e9) | st.just(math.inf), min_size=1, max_size=300), st.sampled_from([0.5, 0.9, 0.95, 0.99])
)
def test_nearest_rank_is_the_same_wherever_it_is_taken(values: list[float], share: float) -> None:
    found = nearest_rank(values, share)
    assert sum(each <= found for each in values) >= share * len(values)
    assert sum(each < found for each in values) < share * len(values)
    assert found == pl.Series(values).quantile(share, "equiprobable")  # results/metrics.py
    (interval,) = percentile_intervals(np.array(values), np.zeros(len(values), np.int64), [share], count=1)
    assert interval is not None
    assert interval.value == found
