"""Bisection finds what trying every rate would find, and asks for few of them."""

from __future__ import annotations

import itertools
import math

import pytest
from dualpath.core.bisection import Bracket, bracket, ladder, next_place, passes_again
from hypothesis import given
from hypothesis import strategies as st


def bisected(kept: list[bool], beyond: int) -> dict[int, bool]:
    """Told what it asks for, until it asks for nothing."""
    verdicts: dict[int, bool] = {}
    while (place := next_place(len(kept), verdicts, beyond)) is not None:
        assert place not in verdicts
        verdicts[place] = kept[place]
    return verdicts


@given(num_rates=st.integers(2, 300), num_kept=st.integers(0, 300), beyond=st.integers(0, 3))
def test_a_system_that_fails_once_and_for_all_is_bracketed_with_few_runs(
    num_rates: int, num_kept: int, beyond: int
) -> None:
    num_kept = min(num_kept, num_rates)
    verdicts = bisected([place < num_kept for place in range(num_rates)], beyond)
    assert bracket(num_rates, verdicts) == Bracket(num_kept - 1, num_kept)
    assert len(verdicts) <= 2 + math.ceil(math.log2(num_rates)) + beyond
    assert passes_again(verdicts) == []
    assert set(range(num_kept + 1, min(num_kept + 1 + beyond, num_rates))) <= set(verdicts)


@given(kept=st.lists(st.booleans(), min_size=2, max_size=40))
def test_whatever_the_system_does_the_bracket_is_of_neighbours_that_were_tried(kept: list[bool]) -> None:
    verdicts = bisected(kept, beyond=1)
    met, failed = bracket(len(kept), verdicts)
    assert failed == met + 1
    assert met == -1 or verdicts[met]
    assert failed == len(kept) or not verdicts[failed]
    for place in passes_again(verdicts):
        assert any(not kept[smaller] and smaller in verdicts for smaller in range(place))


def test_a_rate_above_the_first_failure_that_passes_is_told() -> None:
    assert passes_again(bisected([True, True, False, True, False, False], beyond=1)) == [3]
    assert passes_again(bisected([False, True, True], beyond=0)) == [2], "both ends are always tried"
    assert passes_again({}) == []


@given(
    low=st.floats(1e-6, 1e3),
    factor=st.floats(1.001, 1e4),
    within=st.floats(0.003, 1.0),
)
def test_a_ladder_climbs_from_low_to_high_in_steps_of_at_most_the_share(
    low: float, factor: float, within: float
) -> None:
    rates = ladder(low, low * factor, within)
    assert (rates[0], rates[-1]) == (low, low * factor)
    for smaller, larger in itertools.pairwise(rates):
        assert larger > smaller
        assert larger / smaller <= (1 + within) * 1.005  # digits of a rate between the ends
    assert len(rates) - 2 < math.log(factor) / math.log1p(within)


@pytest.mark.parametrize(
    ("low", "high", "within", "rates"),
    [(1.0, 8.0, 1.0, (1.0, 2.0, 4.0, 8.0)), (0.1, 0.2, 0.5, (0.1, 0.1414, 0.2)), (1.0, 1.01, 0.05, (1.0, 1.01))],
)
def test_ladders(low: float, high: float, within: float, rates: tuple[float, ...]) -> None:
    assert ladder(low, high, within) == rates
