"""A mean with its bootstrap interval, where values come in groups. One infinite value makes it infinite."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from dualpath.results.intervals import RESAMPLES, Interval, resamples, spread


def mean_interval(
    values: npt.NDArray[np.float64], groups: npt.NDArray[np.int64], *, seed: int = 0, count: int = RESAMPLES
) -> Interval | None:
    """values: [turns], may be infinite; nan: the turn has none. groups: [turns], numbers from 0, resampled as a whole.
    None where no turn has a value."""
    has_one = ~np.isnan(values)
    values, groups = values[has_one], groups[has_one]
    if not len(values):
        return None
    finite = np.isfinite(values)
    num_groups = int(groups.max()) + 1
    parts = np.stack(  # [groups, 3]: sum of the finite ones, how many there are, how many are infinite
        [
            np.bincount(groups, np.where(finite, values, 0), num_groups),
            np.bincount(groups, minlength=num_groups),
            np.bincount(groups, ~finite, num_groups),
        ],
        axis=1,
    )
    samples = [_means(drawn @ parts) for drawn in resamples(num_groups, 3, seed, count)]
    value = float(_means(parts.sum(axis=0, keepdims=True))[0])
    return spread(value, np.concatenate(samples), int(np.count_nonzero(parts[:, 1])))


def _means(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """sums: [resamples, 3]. A resample of groups without a value has no mean, and is left out."""
    sums = sums[sums[:, 1] > 0]
    means: npt.NDArray[np.float64] = np.where(sums[:, 2] > 0, math.inf, sums[:, 0] / sums[:, 1])
    return means
