"""The capacity is the rate that most repeats keep, and its interval holds all of theirs."""

from __future__ import annotations

import pytest
from dualpath.core.bisection import Bracket
from dualpath.results.capacity import Capacity, capacity
from hypothesis import given
from hypothesis import strategies as st

RATES = tuple(0.1 * 2**place for place in range(6))


@given(met=st.lists(st.integers(-1, len(RATES) - 1), min_size=1, max_size=9))
def test_a_rate_meets_the_slo_where_more_than_half_of_the_repeats_do(met: list[int]) -> None:
    found = capacity(RATES, [Bracket(place, place + 1) for place in met])
    kept = [rate for place, rate in enumerate(RATES) if 2 * sum(each >= place for each in met) > len(met)]
    failed = [rate for rate in RATES if rate not in kept]
    assert found.met == max(kept, default=None)
    assert found.failed == min(failed, default=None)
    assert found.verdict == ("never" if not kept else "always" if not failed else "found")
    assert found.low == (None if min(met) < 0 else RATES[min(met)])
    assert found.high == (None if max(met) == len(RATES) - 1 else RATES[max(met) + 1])


@pytest.mark.parametrize(("repeats", "level"), [(1, 0.0), (2, 0.5), (5, 0.9375), (6, 0.96875)])
def test_the_interval_misses_the_median_only_where_all_draws_lie_on_one_side(repeats: int, level: float) -> None:
    found = capacity(RATES, [Bracket(2, 3)] * repeats)
    assert found == Capacity("found", RATES[2], RATES[3], RATES[2], RATES[3], level)
