"""Intervals by bootstrap: how much a number depends on which trajectories happened to be in the run."""

from __future__ import annotations

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


def resamples(num_groups: int, num_cells: int, seed: int, count: int) -> Iterator[npt.NDArray[np.float64]]:
    """How often each group is drawn: [resamples of a chunk, groups], `count` resamples in all. num_cells: what a
    caller makes of one resample, for chunks that fit into memory."""
    rng = np.random.default_rng(seed)
    chunk = max(1, _CELLS_PER_CHUNK // max(num_cells, num_groups))
    even = np.full(num_groups, 1 / num_groups)
    for start in range(0, count, chunk):
        yield rng.multinomial(num_groups, even, size=min(chunk, count - start)).astype(np.float64)
