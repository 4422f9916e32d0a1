"""The online runs of Figs 10 and 11, and the largest rate at which a system keeps its SLO (section 7.2)."""

from __future__ import annotations

from typing import NamedTuple

from dualpath.paper.cells import MaxLen, online
from dualpath.paper.runs import Results

# Agents per second: the paper's grid, and two steps beyond it so that a capacity can come out too large.
RATES: dict[str, tuple[float, ...]] = {
    "ds660b-2p4d": (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6),
    "ds27b-1p1d": (0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9, 1.05),
}
_LAST = {("ds660b-2p4d", "basic"): 0.35, ("ds27b-1p1d", "basic"): 0.6}  # two steps beyond the rate that fails there
ARMS = ("basic", "layerwise", "dualpath", "split", "oracle")
BEYOND = ("layerwise", "split")  # not in the paper's figure
# The paper does not say which set its online runs use: offline agents / JCT and the working set speak for 64K,
# trajectory times for 48K. The first is judged (named choice).
SETS: tuple[MaxLen, ...] = ("64k", "48k")


def rates_of(cluster: str, arm: str) -> tuple[float, ...]:
    """That are run."""
    return tuple(rate for rate in RATES[cluster] if rate <= _LAST.get((cluster, arm), rate))


CELLS = tuple(
    online(cluster, max_len, arm, rate)
    for max_len in SETS
    for cluster in RATES
    for arm in ARMS
    for rate in rates_of(cluster, arm)
)


class Capacity(NamedTuple):
    """rate_per_s: the largest rate of the grid such that it and all smaller ones are within the SLO; 0: not even the
    smallest. None: a run is missing below the first failure."""

    rate_per_s: float | None
    is_least: bool  # no rate that was run failed
    missing: str

    def step(self, cluster: str) -> int | None:
        """Place in the grid, from 1."""
        if self.rate_per_s is None:
            return None
        return step(cluster, self.rate_per_s)


def step(cluster: str, rate_per_s: float) -> int:
    """Of a rate of the grid; 0 for 0."""
    return sum(rate <= rate_per_s + 1e-9 for rate in RATES[cluster])


def capacity(results: Results, cluster: str, max_len: MaxLen, arm: str) -> Capacity:
    found = 0.0
    for rate in rates_of(cluster, arm):
        cell = online(cluster, max_len, arm, rate)
        point = results.point(cell)
        if point is None:
            return Capacity(None, False, results.why_not(cell))
        if not point.is_within_slo:
            return Capacity(found, False, "")
        found = rate
    return Capacity(found, True, "")
