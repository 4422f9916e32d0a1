from __future__ import annotations

import numpy as np
import pytest
from dualpath.results.effective import effective_size, stretches


def test_independent_values_count_in_full() -> None:
    assert effective_size(np.random.default_rng(0).normal(size=5000)) == pytest.approx(5000, rel=0.1)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_an_autoregressive_series_is_worth_what_theory_says(share: float) -> None:
    """Of x[k] = share x[k-1] + noise: n (1 - share) / (1 + share)."""
    rng, series = np.random.default_rng(1), np.zeros(20_000)
    for place in range(1, len(series)):
        series[place] = share * series[place - 1] + rng.normal()
    assert effective_size(series) == pytest.approx(len(series) * (1 - share) / (1 + share), rel=0.15)


def test_equal_values_and_one_value_count_once() -> None:
    assert effective_size(np.ones(100)) == 1
    assert effective_size(np.array([3.0])) == 1


def test_it_is_never_more_than_the_length() -> None:
    assert effective_size(np.tile([1.0, -1.0], 50)) == 100


def test_a_stretch_is_four_times_what_is_worth_one_value() -> None:
    groups = stretches(1200, 60.0)  # 20 values are worth one
    assert np.bincount(groups).tolist() == [80] * 15


def test_stretches_hold_every_value_in_order_and_are_never_more_than_200() -> None:
    for num in (1, 2, 199, 200, 201, 12_345):
        groups = stretches(num, float(num))
        assert len(groups) == num
        assert groups[0] == 0
        assert set(np.diff(groups)) <= {0, 1}
        assert groups[-1] < 200
    assert set(stretches(50, 1.0)) == {0}  # worth one value: one stretch
