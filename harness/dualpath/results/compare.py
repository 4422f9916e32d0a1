"""Two configurations against each other, paired trajectory by trajectory, with seeded bootstrap intervals.

A JCT is the end of one trajectory, the last: resampling trajectories would only ask whether that one was drawn, and
even A against A would exclude 1. So the ratio of JCTs comes with its range over repeats, and the intervals are of
means over trajectories. They cover which trajectories happened to be in the run; these share links, so they are not
independent. What the machine's noise does is shown by A against A (bound.noise), not by these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from dualpath.core.errors import RunError
from dualpath.results.intervals import LEVEL, RESAMPLES, Interval, resamples
from dualpath.results.metrics import NS_PER_S, per_trajectory, per_turn
from dualpath.results.percentiles import percentile_intervals
from dualpath.results.run import Run, require_result

PERCENTILES = (0.5, 0.9, 0.99)

Array = npt.NDArray[np.float64]
Latency = Literal["ttft", "ttst", "tpot"]
LATENCIES: tuple[Latency, ...] = ("ttft", "ttst", "tpot")


@dataclass(frozen=True, slots=True)
class Ratio:
    """Mean over repeats of A / mean over repeats of B, and its range over pairs of repeats (of the same number where
    both sides have the same numbers)."""

    value: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True, slots=True)
class Percentile:
    """Of a latency over all turns of all repeats, each side's with its own interval. None: no turn has the latency."""

    latency: Latency
    quantile: float
    a_ns: Interval | None
    b_ns: Interval | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """B against A. A `speed_up` above 1 and differences below 0 mean that B is faster."""

    a: tuple[str, ...]  # run directories, one per repeat
    b: tuple[str, ...]
    trajectories: int
    speed_up: Ratio  # JCT of A / JCT of B
    trajectory_speed_up: Interval  # mean trajectory JCT of A / of B, resampled by trajectory
    trajectory_jct_difference_s: Interval  # mean over trajectories of (B - A)
    ttft_difference_s: Interval  # mean over turns of (B - A), resampled by trajectory
    is_paired_by_repeat: bool


def percentiles(runs: Run | Sequence[Run], latency: Latency, *, seed: int = 0) -> list[Interval | None]:
    """PERCENTILES of a latency in ns, resampled by trajectory. Raises RunError for a void run."""
    found = [per_turn(run).select("trajectory", latency).collect() for run in _repeats(runs)]
    turns = pl.concat(found).with_columns(pl.col("trajectory").rank("dense").cast(pl.Int64) - 1)
    values = turns[latency].cast(pl.Float64).fill_null(math.nan).to_numpy()
    return percentile_intervals(values, turns["trajectory"].to_numpy(), PERCENTILES, seed=seed)


def compare_percentiles(run_a: Run | Sequence[Run], run_b: Run | Sequence[Run]) -> list[Percentile]:
    """All of both sides. Raises RunError for void runs."""
    return [
        Percentile(latency, quantile, a, b)
        for latency in LATENCIES
        for quantile, a, b in zip(PERCENTILES, percentiles(run_a, latency), percentiles(run_b, latency), strict=True)
    ]


def compare(
    run_a: Run | Sequence[Run],
    run_b: Run | Sequence[Run],
    *,
    seed: int = 0,
    num_resamples: int = RESAMPLES,
) -> Comparison:
    """Compare repeats of B with repeats of A. Raises RunError for void runs or unlike trajectories or turns.

    Repeats with the same numbers on both sides were run side by side: their JCTs are taken as pairs.
    """
    a, b = _repeats(run_a), _repeats(run_b)
    for run in (*a, *b)[1:]:
        _require_same_workload(a[0], run)
    rows = [_Rows.of(run) for run in (*a, *b)]
    for run, other in zip((*a, *b)[1:], rows[1:], strict=True):
        rows[0].require_same_work(other, a[0], run)
    rows_a, rows_b = rows[: len(a)], rows[len(a) :]
    paired = [run.manifest.repeat for run in a] == [run.manifest.repeat for run in b]
    ends_a = np.stack([row.end_ns for row in rows_a])  # [repeats of A, trajectories]
    ends_b = np.stack([row.end_ns for row in rows_b])
    jcts_a, jcts_b = _mean(rows_a, "jct_ns"), _mean(rows_b, "jct_ns")  # [trajectories]
    jct_diff = jcts_b - jcts_a
    ttft_diff = _mean(rows_b, "ttft_sum_ns") - _mean(rows_a, "ttft_sum_ns")
    turns = rows[0].turns
    count = len(rows[0].ids)
    ratios, jct_diffs, ttft_diffs = [], [], []
    for drawn in resamples(count, count, seed, num_resamples):
        ratios.append(drawn @ jcts_a / (drawn @ jcts_b))
        jct_diffs.append(drawn @ jct_diff / count)
        ttft_diffs.append(drawn @ ttft_diff / (drawn @ turns))
    return Comparison(
        a=tuple(str(run.directory) for run in a),
        b=tuple(str(run.directory) for run in b),
        trajectories=count,
        speed_up=_ratio(ends_a.max(axis=1), ends_b.max(axis=1), paired=paired),
        trajectory_speed_up=_interval(jcts_a.sum() / jcts_b.sum(), ratios),
        trajectory_jct_difference_s=_interval(jct_diff.mean() / NS_PER_S, jct_diffs, NS_PER_S),
        ttft_difference_s=_interval(ttft_diff.sum() / turns.sum() / NS_PER_S, ttft_diffs, NS_PER_S),
        is_paired_by_repeat=paired,
    )


@dataclass(frozen=True, slots=True)
class _Rows:
    """One run's trajectories, sorted by id: one array entry each."""

    ids: list[str]
    turns: Array
    end_ns: Array
    jct_ns: Array
    ttft_sum_ns: Array

    @classmethod
    def of(cls, run: Run) -> _Rows:
        require_result(run)
        turns = per_turn(run).group_by("trajectory").agg(pl.len().alias("turns"), pl.col("ttft").sum())
        frame = per_trajectory(run).join(turns, on="trajectory").sort("trajectory").collect()
        columns = [frame[name].cast(pl.Float64).to_numpy() for name in ("turns", "end_ns", "trajectory_jct", "ttft")]
        return cls(frame["trajectory"].to_list(), *columns)

    def require_same_work(self, other: _Rows, run: Run, other_run: Run) -> None:
        if self.ids != other.ids:
            odd = sorted(set(self.ids) ^ set(other.ids))
            holder = run if odd[0] in set(self.ids) else other_run
            raise RunError(
                f"{run.directory} and {other_run.directory} cannot be paired: {len(odd)} trajectories are in one "
                f"only, the first is {odd[0]!r} in {holder.directory}; replay both with the same trace, "
                "agents and seed"
            )
        unlike = np.flatnonzero(self.turns != other.turns)
        if unlike.size:
            first = int(unlike[0])
            raise RunError(
                f"{run.directory} and {other_run.directory} cannot be paired: trajectory {self.ids[first]!r} "
                f"has {int(self.turns[first])} turns in one and {int(other.turns[first])} in the other; "
                "replay both with the same trace, scale and maximum length"
            )


def _require_same_workload(run: Run, other: Run) -> None:
    """Clusters and arms may differ, that is what is compared. Raises RunError naming both values."""
    for key, value in run.workload.items():
        if key not in ("trace", "agents") and value != other.workload[key]:  # a name; and trajectories are paired below
            raise RunError(
                f"{run.directory} and {other.directory} are not the same work: {key} is {value!r} in one and "
                f"{other.workload[key]!r} in the other; replay both alike"
            )


def _repeats(runs: Run | Sequence[Run]) -> list[Run]:
    found = [runs] if isinstance(runs, Run) else sorted(runs, key=lambda run: run.manifest.repeat)
    if not found:
        raise RunError("nothing to compare: no run was given for one side")
    for run in found:
        require_result(run)
    return found


def _mean(rows: list[_Rows], column: str) -> Array:
    mean: Array = np.mean([getattr(row, column) for row in rows], axis=0)
    return mean


def _ratio(a: Array, b: Array, *, paired: bool) -> Ratio:
    """a, b: [repeats]"""
    pairs = a / b if paired else (a[:, None] / b[None, :]).flatten()
    return Ratio(float(a.mean() / b.mean()), float(pairs.min()), float(pairs.max()), len(pairs))


def _interval(value: float, samples: list[Array], divisor: float = 1.0) -> Interval:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(samples) / divisor, [tail, 1 - tail])
    return Interval(float(value), float(low), float(high))
