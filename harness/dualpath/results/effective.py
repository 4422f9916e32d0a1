"""How many independent values a series is worth.

Latencies one after the other resemble each other: queues take time to fill and to drain. The mean of n such values is
as sure as that of n / (1 + 2 x sum of autocorrelations) independent ones. Autocorrelations of long lags are noise, so
the sum ends where those of two neighbouring lags together are no longer above 0 (Geyer 1992, the initial positive
sequence).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


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
