"""The analytic best of a configuration, and the noise floor: what a speed-up must be read against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from dualpath.results.metrics import METRICS, NS_PER_S
from dualpath.results.run import Run, require_result


@dataclass(frozen=True, slots=True)
class Bound:
    """The least time in which the storage NICs the arm may read with could have carried the run's hits."""

    hit_bytes: int
    snics: int
    rate_bytes_per_s: float  # of one SNIC
    seconds: float  # hit_bytes / (rate x snics)
    jct_s: float

    @property
    def closeness(self) -> float:
        """bound / JCT: at 1 these links never idled. What is missing is compute, decode, cold start and tail."""
        return self.seconds / self.jct_s


@dataclass(frozen=True, slots=True)
class Noise:
    """A against A: how far repeats of one configuration are apart."""

    jct_s: tuple[float, ...]
    spread: float  # largest JCT / smallest - 1


def snic_bound(run: Run) -> Bound | None:
    """Pooled SNIC time of the hits the run loaded. None where it says nothing: native links, no read (oracle).

    Raises RunError for a void run.
    """
    require_result(run)
    rate, snics = run.cluster.snic_bytes_per_s, len(run.read_nodes())
    if rate is None or not snics:
        return None
    tokens = int(run.turns.select(pl.col("hit_tokens").cast(pl.Int64).sum()).collect().item())
    hit_bytes = tokens * run.cluster.kv_bytes_per_token
    return Bound(hit_bytes, snics, rate, hit_bytes / (rate * snics), jct_s(run))


def noise(runs: Sequence[Run]) -> Noise | None:
    """Spread of the JCT over repeats of one configuration; None with fewer than two. Void runs raise RunError."""
    if len(runs) < 2:
        return None
    times = tuple(jct_s(run) for run in runs)
    return Noise(times, max(times) / min(times) - 1)


def jct_s(run: Run) -> float:
    """Job completion time in seconds. Raises RunError for a void run."""
    require_result(run)
    return float(run.turns.select(METRICS["jct"].expr).collect().item()) / NS_PER_S


def coordinator_ms_per_turn(run: Run) -> float | None:
    """The harness's own cost: time the coordinator was busy, per turn; None where it was not recorded."""
    coordinator = run.manifest.coordinator
    if coordinator is None or not coordinator.turns:
        return None
    return coordinator.busy_ns / coordinator.turns / 1e6
