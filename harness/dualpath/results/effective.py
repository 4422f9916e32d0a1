"""How many independent values a series is worth.

Latencies one after the other resemble each other: queues take time to fill and to drain. The mean of n such values is
as sure as that of n / (1 + 2 x sum of autocorrelations) independent ones. Autocorrelations of long lags are noise, so
the sum ends where those of two neighbouring lags together are no longer above 0 (Geyer 1992, the initial positive
sequence).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_STRETCH = 4  # times the length that is worth one value: then stretches hardly resemble their neighbours
_MOST_STRETCHES = 200  # more of them make an interval no better, and resampling slow


def effective_size(series: npt.NDArray[np.float64]) -> float:
    """Between 1 and the length. series: in order of time, finite; at least one value."""
    num = len(series)
    assert num, "a series has values"
    centred = series - series.mean()
    power = np.abs(np.fft.rfft(centred, 2 * num)) ** 2
    covariance = np.fft.irfft(power)[:num]
    if covariance[0] <= 0:  # all are equal: nothing is learned from a second one
        return 1.0
    correlation = covariance / covariance[0]
    pairs = correlation[: num // 2 * 2].reshape(-1, 2).sum(axis=1)
    ends = np.flatnonzero(pairs <= 0)
    kept = pairs[: ends[0]] if len(ends) else pairs
    return float(np.clip(num / max(2 * kept.sum() - 1, 1 / num), 1, num))


def stretches(num: int, effective: float) -> npt.NDArray[np.int64]:
    """Numbers from 0, of stretches of a series in order of time: what is resampled as a whole. [num]

    effective: the size that the series is worth.
    """
    length = max(1, round(_STRETCH * num / effective), -(-num // _MOST_STRETCHES))
    return np.arange(num) // min(length, num)
