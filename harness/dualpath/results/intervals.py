"""Intervals by bootstrap: how much a number depends on which trajectories happened to be in the run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
RESAMPLES = 2000
_CELLS_PER_CHUNK = 4_000_000  # bounds the memory of one chunk of resamples


@dataclass(frozen=True, slots=True)
class Interval:
    """A number with its bootstrap interval."""

    value: float
    low: float
    high: float
    level: float = LEVEL


def spread(value: float, samples: npt.NDArray[np.float64]) -> Interval:
    """samples: [resamples], may be infinite. Its ends are samples, never interpolated: between a number and infinity
    there is nothing."""
    ordered, tail = np.sort(samples), (1 - LEVEL) / 2
    ranks = (math.ceil(round(share * len(ordered), 6)) for share in (tail, 1 - tail))  # 50 of 2000, not 50.0...04
    low, high = (ordered[max(rank, 1) - 1] for rank in ranks)
    return Interval(value, float(low), float(high))


def wider(one: Interval, other: Interval) -> Interval:
    """Of the same number: what holds whichever of two ways of resampling is the right one."""
    return Interval(one.value, min(one.low, other.low), max(one.high, other.high))


def resamples(num_groups: int, num_cells: int, seed: int, count: int) -> Iterator[npt.NDArray[np.float64]]:
    """How often each group is drawn: [resamples of a chunk, groups], `count` resamples in all. num_cells: what a
    caller makes of one resample, for chunks that fit into memory."""
    rng = np.random.default_rng(seed)
    chunk = max(1, _CELLS_PER_CHUNK // max(num_cells, num_groups))
    even = np.full(num_groups, 1 / num_groups)
    for start in range(0, count, chunk):
        yield rng.multinomial(num_groups, even, size=min(chunk, count - start)).astype(np.float64)
