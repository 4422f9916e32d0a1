"""Percentiles with bootstrap intervals, where values of one trajectory belong together.

Turns of one agent resemble each other, so not turns but trajectories are resampled, each with all its turns. A
percentile is an order statistic (nearest rank): a failed turn counts with its infinite latency, and one that is among
the slowest 1 % makes the 99th percentile infinite rather than being left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dualpath.results.intervals import LEVEL, RESAMPLES, Interval, resamples

Values = npt.NDArray[np.float64]
Groups = npt.NDArray[np.int64]


def percentile_intervals(
    values: Values, groups: Groups, quantiles: Sequence[float], *, seed: int = 0, count: int = RESAMPLES
) -> list[Interval | None]:
    """values: [turns], may be infinite; nan: the turn has none. groups: [turns], trajectory numbers from 0. An interval
    for each quantile in (0, 1]; None where no turn has a value."""
    has_one = ~np.isnan(values)
    values, groups = values[has_one], groups[has_one]
    if not len(values):
        return [None] * len(quantiles)
    order = np.argsort(values, kind="stable")
    values, groups = values[order], groups[order]
    num_groups = int(groups.max()) + 1
    found = _percentiles(values, np.ones((1, len(values))), quantiles)[0]
    samples = np.concatenate(
        [_percentiles(values, drawn[:, groups], quantiles) for drawn in resamples(num_groups, len(values), seed, count)]
    )
    tail = (1 - LEVEL) / 2
    return [
        Interval(value, _nearest(column, tail), _nearest(column, 1 - tail))
        for value, column in zip(found.tolist(), np.sort(samples, axis=0).T, strict=True)
    ]


def _percentiles(values: Values, weights: Values, quantiles: Sequence[float]) -> Values:
    """values: sorted, [turns]; weights: how often each is there, [resamples, turns]. [resamples, quantiles]"""
    upto = np.cumsum(weights, axis=1)
    found = np.empty((len(weights), len(quantiles)))
    for column, quantile in enumerate(quantiles):
        wanted = np.maximum(1, np.ceil(quantile * upto[:, -1]))
        found[:, column] = values[np.minimum((upto < wanted[:, None]).sum(axis=1), len(values) - 1)]
    return found


def _nearest(ordered: Values, quantile: float) -> float:
    """Never interpolated: between a number and infinity there is nothing."""
    return float(ordered[max(0, math.ceil(quantile * len(ordered)) - 1)])
