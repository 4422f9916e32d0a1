"""How late the harness itself was, and the *degraded* flag: the named rule `one-per-cent-of-ttft`.

Latency counts from when a turn was due, so what the harness loses before it tells the scheduler is in every TTFT. That
is its send lag: from when a turn could be sent until it was. It can be sent when it is due and the turn before has
persisted the blocks that this one is to find: waiting for those is the engines' time, and no lag. Virtual time waits
for nobody, so a simulated run has none: what it puts before a turn's release (`request_ms`) is the system's.

A run is degraded where the lag is above 1 % of TTFT, at the median or at the 99th percentile, and above 1 ms: like is
held against like, so the flag says that a TTFT of this run is the harness's by more than what two runs of one
configuration differ by at least (1 %, `report/experiment.py`). Below 1 ms it is the time a process takes to wake up.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from dualpath.results.metrics import per_turn
from dualpath.results.percentiles import nearest_rank
from dualpath.results.run import Run

RULE = "one-per-cent-of-ttft"
SHARE = 0.01
FLOOR_NS = 1e6


@dataclass(frozen=True, slots=True)
class SendLag:
    """Of all turns that were sent, in ns; and what it may be."""

    p50_ns: float
    p99_ns: float
    max_ns: float
    p50_limit_ns: float
    p99_limit_ns: float

    @property
    def degraded_at(self) -> tuple[str, ...]:
        """Percentiles at which the harness was late; none: it was in time."""
        late = {"p50": self.p50_ns > self.p50_limit_ns, "p99": self.p99_ns > self.p99_limit_ns}
        return tuple(name for name, is_late in late.items() if is_late)

    @property
    def is_degraded(self) -> bool:
        return bool(self.degraded_at)


def send_lag(run: Run) -> SendLag | None:
    """Also of a void run, whose limits are those of the turns that ended. None where time is virtual, or no turn was
    sent."""
    if run.manifest.backend == "sim":
        return None
    lags = _lags(run.turns)["lag"]
    if lags.is_empty():
        return None
    ttft = per_turn(run).select("ttft").filter(pl.col("ttft").is_finite()).collect()["ttft"]
    return SendLag(
        p50_ns=_percentile(lags, 0.5),
        p99_ns=_percentile(lags, 0.99),
        max_ns=_percentile(lags, 1.0),
        p50_limit_ns=max(FLOOR_NS, SHARE * _percentile(ttft, 0.5)),
        p99_limit_ns=max(FLOOR_NS, SHARE * _percentile(ttft, 0.99)),
    )


def _lags(turns: pl.LazyFrame) -> pl.DataFrame:
    """trajectory, turn, lag in ns; sorted.

    What made a turn due is the turn before of its trajectory, or, where agents have sub-agents, the turn of another
    one that ended at that very moment.
    """
    persisted = turns.drop_nulls("persisted_ns").group_by("end_ns").agg(pl.col("persisted_ns").max().alias("cause_ns"))
    before_ns = pl.col("persisted_ns").shift(1).over("trajectory", order_by="turn")
    return (
        turns.with_columns(before_ns.alias("before_ns"))
        .join(persisted, left_on="due_ns", right_on="end_ns", how="left")
        .select(
            "trajectory",
            "turn",
            (pl.col("released_ns") - pl.max_horizontal("due_ns", "before_ns", "cause_ns"))
            .clip(lower_bound=0)
            .alias("lag"),
        )
        .drop_nulls("lag")
        .sort("trajectory", "turn")
        .collect()
    )


def _percentile(values: pl.Series, quantile: float) -> float:
    """Nearest rank; 0 of nothing."""
    return nearest_rank(values.to_numpy(), quantile) if len(values) else 0.0
