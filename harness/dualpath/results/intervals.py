"""Intervals by bootstrap: how much a number depends on which trajectories, or times, happened to be in the run.

What is resampled are groups. Few of them make a plain percentile interval too narrow; its ends are read further out
(student.py). Fewer than 6 give none: their ends would be the outermost of 2000 resamples, and a series that is worth
so little does not show how little. Simulated, the mean of values x[k] = r x[k-1] + noise, whose stretches are the
groups (effective.py):

    values   r      an interval is shown in   and those miss the truth in
    300      0      all runs                  5 %
    300      0.9    half                      15 %
    300      0.97   2.5 %                     60 %
    1000     0.9    nearly all                8 %
    1000     0.97   half                      15 %

Where most runs show none, those that do are the ones whose series looks less alike than it is: of few groups, an
interval is to be read with care. To ask for more groups makes that worse: then only those are left.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dualpath.results.student import expanded_tail

LEVEL = 0.95
RESAMPLES = 2000
FEWEST_GROUPS = 6
_CELLS_PER_CHUNK = 4_000_000  # bounds the memory of one chunk of resamples


@dataclass(frozen=True, slots=True)
class Interval:
    """A number with its bootstrap interval."""

    value: float
    low: float
    high: float
    level: float = LEVEL

    @property
    def is_known(self) -> bool:
        """False: too few groups; the number may be anything, so the interval is from -inf to inf."""
        return (self.low, self.high) != (-math.inf, math.inf)


def spread(value: float, samples: npt.NDArray[np.float64], num_groups: int) -> Interval:
    """Hesterberg's expanded percentile interval (student.py). samples: [resamples], of so many groups; may be infinite.
    Its ends are samples, never interpolated: between a number and infinity there is nothing."""
    if num_groups < FEWEST_GROUPS:
        return Interval(value, -math.inf, math.inf)
    ordered, tail = np.sort(samples), expanded_tail((1 - LEVEL) / 2, num_groups)
    ranks = (math.ceil(round(share * len(ordered), 6)) for share in (tail, 1 - tail))  # 50 of 2000, not 50.0...04
    low, high = (ordered[max(rank, 1) - 1] for rank in ranks)
    return Interval(value, float(low), float(high))


def combined(one: Interval, other: Interval) -> Interval:
    """Of the same number, where two ways of being alike add up: distances of the ends from it, in quadrature.

    Variances add, less that of single values, which both hold (Cameron, Gelbach and Miller, Robust Inference With
    Multiway Clustering, 2011). It is not taken off here: an interval is never narrower than the wider of the two, and
    at most sqrt(2) times too wide, where values are not alike in either way. Of an infinite number: the wider.
    """
    value = one.value
    if math.isinf(value):
        return Interval(value, min(one.low, other.low), max(one.high, other.high))
    below = math.hypot(*(max(0.0, value - each.low) for each in (one, other)))
    above = math.hypot(*(max(0.0, each.high - value) for each in (one, other)))
    return Interval(value, value - below, value + above)


def resamples(num_groups: int, num_cells: int, seed: int, count: int) -> Iterator[npt.NDArray[np.float64]]:
    """How often each group is drawn: [resamples of a chunk, groups], `count` resamples in all. num_cells: what a
    caller makes of one resample, for chunks that fit into memory."""
    rng = np.random.default_rng(seed)
    chunk = max(1, _CELLS_PER_CHUNK // max(num_cells, num_groups))
    even = np.full(num_groups, 1 / num_groups)
    for start in range(0, count, chunk):
        yield rng.multinomial(num_groups, even, size=min(chunk, count - start)).astype(np.float64)
