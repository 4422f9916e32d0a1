from __future__ import annotations

import math
from statistics import NormalDist

import pytest
from dualpath.results.student import expanded_tail, t_quantile


@pytest.mark.parametrize(
    ("share", "degrees", "known"),  # a printed table (NIST handbook, 1.3.6.7.2)
    [
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 3, 3.182),
        (0.975, 4, 2.776),
        (0.975, 5, 2.571),
        (0.975, 9, 2.262),
        (0.975, 30, 2.042),
        (0.975, 100, 1.984),
        (0.995, 7, 3.499),
        (0.95, 12, 1.782),
        (0.9, 6, 1.440),
    ],
)
def test_quantiles_are_those_of_the_table(share: float, degrees: int, known: float) -> None:
    assert t_quantile(share, degrees) == pytest.approx(known, abs=5e-4)
    assert t_quantile(1 - share, degrees) == pytest.approx(-known, abs=5e-4)


@pytest.mark.parametrize("share", [0.001, 0.025, 0.4, 0.5, 0.8])
def test_one_and_two_degrees_have_a_formula(share: float) -> None:
    assert t_quantile(share, 1) == pytest.approx(math.tan(math.pi * (share - 0.5)), abs=1e-12, rel=1e-12)
    by_hand = (2 * share - 1) / math.sqrt(2 * share * (1 - share))
    assert t_quantile(share, 2) == pytest.approx(by_hand, abs=1e-12, rel=1e-12)


def test_many_degrees_are_the_normal_law() -> None:
    assert t_quantile(0.975, 100_000) == pytest.approx(NormalDist().inv_cdf(0.975), abs=1e-4)


def test_the_fewer_groups_the_further_out_a_resample_is_read() -> None:
    tails = [expanded_tail(0.025, groups) for groups in (2, 5, 10, 20, 200)]
    assert tails == sorted(tails)
    printed = zip((5, 10, 20), (2.776, 2.262, 2.093), strict=True)  # t of the same table
    by_hand = [NormalDist().cdf(-math.sqrt(groups / (groups - 1)) * t) for groups, t in printed]
    assert tails[1:4] == pytest.approx(by_hand, rel=2e-3)
    assert tails[4] == pytest.approx(0.025, abs=1e-3)
