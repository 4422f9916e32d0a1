"""Least squares for the cost formulas of sim/profile.py: measured times in, constants out.

A cost is a sum of terms, each a count times a constant. Counts are known, times are measured, constants are sought:
none below 0, and such that relative errors are least, or the longest times alone would decide. Knows no machine.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Fit:
    """Constants by term, in the unit of the times."""

    constants: tuple[float, ...]
    residuals: tuple[float, ...]  # fitted / measured - 1, by measurement

    @property
    def rms(self) -> float:
        return float(np.sqrt(np.mean(np.square(self.residuals))))

    def time(self, counts: Sequence[float]) -> float:
        return sum(constant * count for constant, count in zip(self.constants, counts, strict=True))


def fit(counts: Sequence[Sequence[float]], times: Sequence[float]) -> Fit:
    """The constants, each at least 0, for which the sum of squared relative errors is least. counts: by measurement,
    then term. Every time must be above 0, and the counts must tell the terms apart."""
    matrix, wanted = np.array(counts, float), np.array(times, float)
    assert (wanted > 0).all(), "a measured time is above 0"
    relative = matrix / wanted[:, None]
    assert np.linalg.matrix_rank(relative) == relative.shape[1], "the design tells the terms apart"
    best: tuple[float, np.ndarray[tuple[int], np.dtype[np.float64]]] | None = None
    # The terms that stay above 0 in the best solution solve the plain problem on their own: few terms, so try all.
    for kept in _subsets(relative.shape[1]):
        solution = np.linalg.lstsq(relative[:, kept], np.ones(len(wanted)), rcond=None)[0]
        if (solution < 0).any():
            continue
        constants = np.zeros(relative.shape[1])
        constants[kept] = solution
        error = float(np.sum(np.square(relative @ constants - 1)))
        if best is None or error < best[0]:
            best = error, constants
    assert best is not None, "one term alone is never below 0: counts and times are not"
    return Fit(tuple(best[1].tolist()), tuple((relative @ best[1] - 1).tolist()))


def pass_counts(chunks: Iterable[tuple[int, int]]) -> tuple[float, ...]:
    """Of a forward pass whose requests have (cached, new) tokens: 1, new tokens, tokens of context, and pairs of a new
    token and one that it attends to (as in core/batch.py)."""
    new, context, pairs = 0, 0, 0.0
    for cached_tokens, new_tokens in chunks:
        new += new_tokens
        context += cached_tokens + new_tokens
        pairs += new_tokens * (cached_tokens + (new_tokens + 1) / 2)
    return 1.0, new, context, pairs


def step_counts(requests: int, context_tokens: float) -> tuple[float, ...]:
    """Of a decode step: 1, requests, and tokens of context, of all its requests."""
    return 1.0, requests, context_tokens


def _subsets(num: int) -> Iterable[list[int]]:
    """Of range(num), the largest first: on a tie, all terms stay."""
    for size in range(num, 0, -1):
        for kept in itertools.combinations(range(num), size):
            yield list(kept)
