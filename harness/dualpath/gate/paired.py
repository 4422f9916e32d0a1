"""What pairs of times say: the mean ratio of candidate to base, with a bootstrap interval.

Times of one pair were measured one after the other, so what a machine does for longer than that is in both. Ratios are
averaged as logarithms: twice as long and half as long cancel. The bounds are one-sided: with 95 % confidence the ratio
is at most `high`, and with as much it is at least `low`. A bootstrap of few pairs is too narrow, so its quantiles are
read further out, by as much as Student's t is wider than the normal distribution (Hesterberg 2015). Of four pairs that
is the largest ratio or nearly so, and further out there is nothing: it holds in 93 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dualpath.results.student import expanded_tail

CONFIDENCE = 0.95
_RESAMPLES = 10_000
_SEED = 0


@dataclass(frozen=True, slots=True)
class PairedRatio:
    ratio: float
    low: float
    high: float
    pairs: int

    @property
    def text(self) -> str:
        return f"{self.ratio - 1:+.2%} [{self.low - 1:+.2%}, {self.high - 1:+.2%}] of {self.pairs} pairs"


def paired_ratio(base: Sequence[float], candidate: Sequence[float]) -> PairedRatio:
    """base, candidate: [pairs], above 0."""
    logs = np.log(np.asarray(candidate, float) / np.asarray(base, float))
    tail = expanded_tail(1 - CONFIDENCE, len(logs))
    picked = np.random.default_rng(_SEED).integers(len(logs), size=(_RESAMPLES, len(logs)))
    low, high = np.quantile(logs[picked].mean(axis=1), [tail, 1 - tail])
    return PairedRatio(math.exp(logs.mean()), math.exp(low), math.exp(high), len(logs))
