"""What an online run shows once it has settled: in the last quarter of its arrivals.

For runs whose trajectories take hours: the paper's rule, which compares with half an hour earlier, would stop them
while the number of agents under way still grows.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from dualpath.results.run import Run, require_result
from dualpath.results.termination import TPOT_LIMIT_S, TTFT_LIMIT_S

_NS = 1e9


@dataclass(frozen=True, slots=True)
class Late:
    """Means over the window, but for trajectory_s: over the trajectories that began from a quarter to three quarters of
    the arrivals, however long they took."""

    begin_ns: int
    end_ns: int
    ttft_s: float
    tpot_s: float
    trajectory_s: float
    agents: float  # under way: in a turn or in a gap
    live_tokens: float  # context of all agents under way

    @property
    def is_within_slo(self) -> bool:
        return self.ttft_s <= TTFT_LIMIT_S and self.tpot_s <= TPOT_LIMIT_S


def measure(run: Run) -> Late:
    """Of an online run. Raises RunError for a void run."""
    require_result(run)
    rate_per_s = run.manifest.feed.rate_per_s
    assert rate_per_s, "an online run"
    arrivals_ns = run.manifest.trace.agents / rate_per_s * _NS
    begin_ns, end_ns = int(0.75 * arrivals_ns), int(arrivals_ns)
    within = pl.col("first_token_ns").is_between(begin_ns, end_ns, closed="left")
    ttft = (pl.col("first_token_ns") - pl.col("due_ns")).filter(within).mean()
    tpot = (
        ((pl.col("end_ns") - pl.col("second_token_ns")) / (pl.col("generate_tokens") - 2))
        .filter(within, pl.col("generate_tokens") > 2)
        .mean()
    )
    ttft_ns, tpot_ns = run.turns.select(ttft.alias("ttft"), tpot.alias("tpot")).collect().row(0)
    lives = run.turns.group_by("trajectory").agg(pl.col("due_ns").min(), pl.col("end_ns").max())
    began = pl.col("due_ns").is_between(int(0.25 * arrivals_ns), begin_ns)
    trajectory_ns = lives.select((pl.col("end_ns") - pl.col("due_ns")).filter(began).mean()).collect().item()
    agents, live_tokens = run.turns.select(*_under_way(begin_ns, end_ns)).collect().row(0)
    return Late(
        begin_ns,
        end_ns,
        (ttft_ns or 0.0) / _NS,
        (tpot_ns or 0.0) / _NS,
        (trajectory_ns or 0.0) / _NS,
        agents,
        live_tokens,
    )


def _under_way(begin_ns: int, end_ns: int) -> tuple[pl.Expr, pl.Expr]:
    """A turn holds its context until its trajectory's next one is due."""
    until = pl.col("due_ns").shift(-1).over("trajectory", order_by="turn").fill_null(pl.col("end_ns"))
    overlap = until.clip(begin_ns, end_ns) - pl.col("due_ns").clip(begin_ns, end_ns)
    context = (pl.col("hit_tokens").cast(pl.Int64) + pl.col("miss_tokens")).cast(pl.Float64)
    span_ns = end_ns - begin_ns
    return (overlap.sum() / span_ns).alias("agents"), ((context * overlap).sum() / span_ns).alias("live_tokens")
