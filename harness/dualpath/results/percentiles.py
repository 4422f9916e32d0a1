"""Percentiles with bootstrap intervals, where values come in groups.

Turns of one agent resemble each other, and so do turns of one time. So not turns are resampled but groups of them that
belong together: trajectories, or stretches of time. A percentile is an order statistic (nearest rank): a failed turn
counts with its infinite latency, and one that is among the slowest 1 % makes the 99th percentile infinite rather than
being left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dualpath.results.intervals import RESAMPLES, Interval, resamples, spread

Values = npt.NDArray[np.float64]
Groups = npt.NDArray[np.int64]


def nearest_rank(values: npt.ArrayLike, share: float) -> float:
    """values: one or more, in any order, may be infinite. The least that at least this share of them do not exceed."""
    ordered = np.sort(np.asarray(values, np.float64))
    return float(ordered[max(1, math.ceil(round(share * len(ordered), 9))) - 1])


def percentile_intervals(
    values: Values, groups: Groups, quantiles: Sequence[float], *, seed: int = 0, count: int = RESAMPLES
) -> list[Interval | None]:
    """values: [turns], may be infinite; nan: the turn has none. groups: [turns], numbers from 0. An interval
    for each quantile in (0, 1]; None where no turn has a value."""
    has_one = ~np.isnan(values)
    values, groups = values[has_one], groups[has_one]
    if not len(values):
        return [None] * len(quantiles)
    order = np.argsort(values, kind="stable")
    values, groups = values[order], groups[order]
    num_groups = int(groups.max()) + 1
    found = _percentiles(values, groups, np.ones((1, num_groups)), quantiles)[0]
    sizes, cells = np.bincount(groups, minlength=num_groups), 4 * math.isqrt(len(values))
    samples = np.concatenate(
        [  # a resample of groups without a value has no percentile, and is left out
            _percentiles(values, groups, drawn[drawn @ sizes > 0], quantiles)
            for drawn in resamples(num_groups, cells, seed, count)
        ]
    )
    num = int(np.count_nonzero(sizes))
    return [spread(value, column, num) for value, column in zip(found.tolist(), samples.T, strict=True)]


def _percentiles(values: Values, groups: Groups, drawn: Values, quantiles: Sequence[float]) -> Values:
    """values: sorted, [turns]; groups: [turns]; drawn: how often each group is there, [resamples, groups].
    Returns [resamples, quantiles].

    Turns are counted in pieces of about the square root of their number, and one by one only within the piece that
    holds the percentile: a resample costs twice the root instead of the number.
    """
    num, num_groups = len(values), drawn.shape[1]
    width = math.isqrt(num - 1) + 1
    num_pieces = -(-num // width)
    counts = np.bincount(groups * num_pieces + np.arange(num) // width, minlength=num_groups * num_pieces)
    upto = np.cumsum(drawn @ counts.reshape(num_groups, num_pieces).astype(np.float64), axis=1)  # [resamples, pieces]
    found = np.empty((len(drawn), len(quantiles)))
    every = np.arange(len(drawn))[:, None]
    for column, quantile in enumerate(quantiles):
        wanted = np.maximum(1, np.ceil(quantile * upto[:, -1:]))
        piece = np.minimum((upto < wanted).sum(axis=1, keepdims=True), num_pieces - 1)
        before = np.where(piece > 0, upto[every, piece - 1], 0)
        inside = np.minimum(piece * width + np.arange(width), num - 1)  # beyond the last: never needed
        reached = before + np.cumsum(drawn[every, groups[inside]], axis=1)
        place = np.minimum((reached < wanted).sum(axis=1), width - 1)
        found[:, column] = values[inside[every[:, 0], place]]
    return found
