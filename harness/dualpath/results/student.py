"""Student's t distribution, and what it makes of a bootstrap of few groups.

A percentile interval of a mean of g groups is too narrow twice: the spread of resamples lacks the factor
sqrt(g / (g - 1)), and a normal quantile stands where few groups call for one of t with g - 1 degrees of freedom. Of
5 groups, 95 % are in truth about 85 %. Hesterberg's expanded percentile interval reads quantiles further out instead
(What Teachers Should Know About the Bootstrap, The American Statistician 69(4), 2015).
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist


def expanded_tail(tail: float, groups: int) -> float:
    """The share of resamples to leave out on each side so that `tail` is left out of the truth.

    tail: above 0 and below 0.5. groups: how many are resampled, at least 2. Below 1 / (number of resamples) no
    resample is that far out.
    """
    assert groups > 1, "one group tells nothing of how groups differ"
    return NormalDist().cdf(math.sqrt(groups / (groups - 1)) * t_quantile(tail, groups - 1))


@lru_cache
def t_quantile(share: float, degrees: int) -> float:
    """The value that is exceeded with probability 1 - share. share: above 0, below 1; degrees of freedom: 1 or more."""
    assert 0 < share < 1, "a share of a distribution"
    within, low, high = abs(2 * share - 1), 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:  # bisection, until no number lies between
        low, high = (middle, high) if _within(middle, degrees) < within else (low, middle)
    return math.copysign(math.sqrt(degrees) * math.tan(low), share - 0.5)


def _within(angle: float, degrees: int) -> float:
    """The probability that |t| < sqrt(degrees) tan(angle): a finite sum, Abramowitz and Stegun 26.7.3 and 26.7.4."""
    is_odd = degrees % 2
    square = math.cos(angle) ** 2
    term, total = math.cos(angle) if is_odd else 1.0, 0.0
    for power in range(1 + is_odd, degrees, 2):
        total += term
        term *= square * power / (power + 1)
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if is_odd else total
