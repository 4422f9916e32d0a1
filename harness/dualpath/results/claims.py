"""Claims about the instrument: a number that was measured, and the range in which it must be."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dualpath.results.checks import Check
from dualpath.results.percentiles import nearest_rank

Errors = npt.NDArray[np.float64]
QUANTILE = 0.99


@dataclass(frozen=True, slots=True)
class Claim:
    """`value` must not be above `high`, nor `least` below `low`."""

    id: str
    what: str
    known: str  # what is known without measuring, ms
    value: float  # errors: the 99th percentile of measured - known
    median: float
    least: float
    low: float
    high: float
    unit: str
    rows: tuple[str, ...]  # run directories

    @property
    def is_kept(self) -> bool:
        return self.low <= self.least and self.value <= self.high  # nan: not kept

    @property
    def has_spread(self) -> bool:
        """False: it is one number, not of many errors."""
        return not self.value == self.median == self.least

    @property
    def bound(self) -> str:
        return f">= {self.low:g}" if math.isinf(self.high) else f"{self.low:g} to {self.high:g}"

    def as_check(self) -> Check:
        spread = f"median {self.median:.3f}, least {self.least:.3f}" if self.has_spread else ""
        note = "; ".join(filter(None, (f"known: {self.known}" if self.known else "", spread)))
        return Check(self.id, self.what, self.value, self.unit, self.bound, self.is_kept, note, self.rows)


def never_early_rarely_late(
    id: str, what: str, known: str, errors_ms: Errors, allowed_ms: float, rows: tuple[str, ...]
) -> Claim:
    """errors_ms: measured - known, one or more. None may be below 0: what was measured had to happen first. The 99th
    percentile (nearest rank) may be `allowed_ms`."""
    latest = nearest_rank(errors_ms, QUANTILE)
    median, least = float(np.median(errors_ms)), float(errors_ms.min())
    return Claim(id, what, known, latest, median, least, 0.0, allowed_ms, "ms", rows)
