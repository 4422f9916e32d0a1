"""What an online run of the paper shows: latencies, TTFT's parts and trajectory times at the point where it stops."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from dualpath.results.run import Run, require_result
from dualpath.results.termination import TPOT_LIMIT_S, TTFT_LIMIT_S, Reason, Stop, termination_of

_NS = 1e9
PARTS = ("schedule", "allocate", "read", "prefill")  # Fig 12 left


@dataclass(frozen=True, slots=True)
class Point:
    """One rate of one system. Latencies are means over what happened in the last window before the stop."""

    stop_s: float
    reason: Reason
    ttft_s: float
    ttst_s: float  # second token - first
    tpot_s: float  # (end - second token) / (generated - 2): the tokens after the second
    parts: dict[str, float]  # shares of TTFT: due -> scheduled -> read_start -> read_end -> first token
    trajectory_s: float | None  # mean time of the trajectories that ended before the stop; None: none did
    begun_trajectory_s: float  # of all that began before it, however long they took afterwards
    live_tokens: float  # context of all trajectories under way, mean over the last window

    @property
    def is_within_slo(self) -> bool:
        return self.ttft_s <= TTFT_LIMIT_S and self.tpot_s <= TPOT_LIMIT_S


def measure(run: Run) -> Point:
    """Raises RunError for a void run."""
    require_result(run)
    turns = run.turns
    stop = termination_of(run)
    latencies = turns.select(
        ttft=(pl.col("first_token_ns") - pl.col("due_ns")).filter(_within("first_token_ns", stop)).mean(),
        ttst=(pl.col("second_token_ns") - pl.col("first_token_ns")).filter(_within("second_token_ns", stop)).mean(),
        tpot=(
            ((pl.col("end_ns") - pl.col("second_token_ns")) / (pl.col("generate_tokens") - 2))
            .filter(_within("end_ns", stop), pl.col("generate_tokens") > 2)
            .mean()
        ),
    ).collect()
    ttft, ttst, tpot = latencies.row(0)
    trajectories = (
        turns.group_by("trajectory")
        .agg(pl.col("due_ns").min(), pl.col("end_ns").max())
        .select(
            ended=(pl.col("end_ns") - pl.col("due_ns")).filter(pl.col("end_ns") < stop.end_s * _NS).mean(),
            begun=(pl.col("end_ns") - pl.col("due_ns")).filter(pl.col("due_ns") < stop.end_s * _NS).mean(),
        )
        .collect()
    )
    ended, begun = trajectories.row(0)
    return Point(
        stop_s=stop.end_s,
        reason=stop.reason,
        ttft_s=ttft / _NS,
        ttst_s=ttst / _NS if ttst is not None else 0.0,
        tpot_s=tpot / _NS if tpot is not None else 0.0,
        parts=_parts(turns, stop),
        trajectory_s=None if ended is None else ended / _NS,
        begun_trajectory_s=begun / _NS,
        live_tokens=_live_tokens(turns, stop),
    )


def _within(column: str, stop: Stop) -> pl.Expr:
    return (pl.col(column) >= int(stop.start_s * _NS)) & (pl.col(column) < int(stop.end_s * _NS))


def _parts(turns: pl.LazyFrame, stop: Stop) -> dict[str, float]:
    read_start = pl.coalesce("read_start_ns", "scheduled_ns")
    read_end = pl.coalesce("read_end_ns", "read_start_ns", "scheduled_ns")
    sums = (
        turns.filter(_within("first_token_ns", stop))
        .select(
            schedule=(pl.col("scheduled_ns") - pl.col("due_ns")).sum(),
            allocate=(read_start - pl.col("scheduled_ns")).sum(),
            read=(read_end - read_start).sum(),
            prefill=(pl.col("first_token_ns") - read_end).sum(),
        )
        .collect()
        .row(0, named=True)
    )
    whole = sum(sums.values()) or 1
    return {part: sums[part] / whole for part in PARTS}


def _live_tokens(turns: pl.LazyFrame, stop: Stop) -> float:
    """Prompt tokens of the turns under way, each for the part of the window in which it was."""
    start_ns, end_ns = int(stop.start_s * _NS), int(stop.end_s * _NS)
    prompt = (pl.col("hit_tokens") + pl.col("miss_tokens")).cast(pl.Float64)
    overlap_ns = pl.col("end_ns").clip(start_ns, end_ns) - pl.col("due_ns").clip(start_ns, end_ns)
    return float(turns.select((prompt * overlap_ns).sum() / (end_ns - start_ns)).collect().item())
