from __future__ import annotations

import numpy as np
import pytest
from dualpath.gate.paired import paired_ratio


def test_equal_times_have_a_ratio_of_one_and_no_width() -> None:
    found = paired_ratio([2.0, 3.0, 5.0, 4.0], [2.0, 3.0, 5.0, 4.0])
    assert (found.ratio, found.low, found.high, found.pairs) == (1.0, 1.0, 1.0, 4)


def test_what_is_in_both_of_a_pair_cancels() -> None:
    machine = np.array([1.0, 3.0, 0.5, 2.0, 1.5])
    found = paired_ratio(machine.tolist(), (1.03 * machine).tolist())
    assert (found.ratio, found.low, found.high) == pytest.approx((1.03, 1.03, 1.03))


@pytest.mark.parametrize("pairs", [4, 8, 16])
def test_the_bounds_hold_the_truth_as_often_as_they_say(pairs: int) -> None:
    """Of 400 sets of pairs with noise of 1 %, about 20 of the upper bounds may be below the truth. Of 4 pairs 34 are:
    no resample is above the largest of them."""
    rng, too_low = np.random.default_rng(1), 0
    for _ in range(400):
        base, candidate = np.exp(rng.normal(0, 0.01, (2, pairs)))
        found = paired_ratio(base.tolist(), candidate.tolist())
        assert found.low <= found.ratio <= found.high
        too_low += found.high < 1
    assert 10 <= too_low <= (40 if pairs == 4 else 32)


def test_the_same_times_give_the_same_bounds() -> None:
    times = [1.0, 1.1, 0.9, 1.2], [1.05, 1.0, 1.0, 1.3]
    assert paired_ratio(*times) == paired_ratio(*times)
    assert paired_ratio(*times).text.endswith("of 4 pairs")
