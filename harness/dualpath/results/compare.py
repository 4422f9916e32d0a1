"""Two configurations against each other, paired trajectory by trajectory, with seeded bootstrap intervals.

A JCT is the end of one trajectory, the last: resampling trajectories would only ask whether that one was drawn, and
even A against A would exclude 1. So the ratio of JCTs comes with its range over repeats, and the intervals are of
means over trajectories. They cover which trajectories happened to be in the run; these share links, so they are not
independent. Of few trajectories there is none (intervals.py). What the machine's noise does is shown by A against A
(bound.noise), not by these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from dualpath.core.errors import RunError
from dualpath.results.intervals import RESAMPLES, Interval, resamples, spread
from dualpath.results.latencies import LATENCIES, LatencyName
from dualpath.results.metrics import NS_PER_S, per_trajectory, per_turn
from dualpath.results.run import Run, require_result

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Mean over repeats of A / mean over repeats of B, and its range over pairs of repeats (of the same number where
    both sides have the same numbers)."""

    value: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """B against A. A `speed_up` above 1 and differences below 0 mean that B is faster."""

    a: tuple[str, ...]  # run directories, one per repeat
    b: tuple[str, ...]
    trajectories: int
    speed_up: Ratio  # JCT of A / JCT of B
    trajectory_speed_up: Interval  # mean trajectory JCT of A / of B, resampled by trajectory
    trajectory_jct_difference_s: Interval  # mean over trajectories of (B - A)
    latency_differences_s: dict[LatencyName, Interval | None]  # mean over turns that have it of (B - A), likewise
    latency_trajectories: dict[LatencyName, int]  # how many have a turn that has the latency
    is_paired_by_repeat: bool


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
    sums = _mean(rows_b, "latency_sums_ns") - _mean(rows_a, "latency_sums_ns")  # [trajectories, latencies]
    nums = rows[0].latency_turns
    count = len(rows[0].ids)
    ratios, jct_diffs, latency_diffs = [], [], []
    for drawn in resamples(count, count, seed, num_resamples):
        ratios.append(drawn @ jcts_a / (drawn @ jcts_b))
        jct_diffs.append(drawn @ jct_diff / count)
        latency_diffs.append(_over(drawn @ sums, drawn @ nums))
    return Comparison(
        a=tuple(str(run.directory) for run in a),
        b=tuple(str(run.directory) for run in b),
        trajectories=count,
        speed_up=_ratio(ends_a.max(axis=1), ends_b.max(axis=1), paired=paired),
        trajectory_speed_up=_interval(jcts_a.sum() / jcts_b.sum(), ratios, count),
        trajectory_jct_difference_s=_interval(jct_diff.mean() / NS_PER_S, jct_diffs, count, NS_PER_S),
        latency_differences_s=_differences(sums, nums, np.concatenate(latency_diffs)),
        latency_trajectories=dict(zip(LATENCIES, np.count_nonzero(nums, axis=0).tolist(), strict=True)),
        is_paired_by_repeat=paired,
    )


@dataclass(frozen=True, slots=True)
class _Rows:
    """One run's trajectories, sorted by id: one array entry each."""

    ids: list[str]
    turns: Array
    end_ns: Array
    jct_ns: Array
    latency_turns: Array  # [trajectories, latencies]: how many turns have it
    latency_sums_ns: Array  # likewise, over those turns

    @classmethod
    def of(cls, run: Run) -> _Rows:
        require_result(run)
        turns = (
            per_turn(run)
            .group_by("trajectory")
            .agg(
                pl.len().alias("turns"),
                pl.col(*LATENCIES).sum(),
                pl.col(*LATENCIES).count().name.suffix("_turns"),
            )
        )
        frame = per_trajectory(run).join(turns, on="trajectory").sort("trajectory").collect()
        floats = frame.with_columns(pl.exclude("trajectory").cast(pl.Float64))
        turns_of_latencies = floats.select(f"{name}_turns" for name in LATENCIES)
        return cls(
            frame["trajectory"].to_list(),
            floats["turns"].to_numpy(),
            floats["end_ns"].to_numpy(),
            floats["trajectory_jct"].to_numpy(),
            turns_of_latencies.to_numpy(),
            floats.select(*LATENCIES).to_numpy(),
        )

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
    if key := run.unlike(other, "trace", "agents"):  # a name; and trajectories are paired below
        raise RunError(
            f"{run.directory} and {other.directory} are not the same work: {key} is {run.workload[key]!r} in one and "
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


def _differences(sums: Array, nums: Array, samples: Array) -> dict[LatencyName, Interval | None]:
    """sums, nums: [trajectories, latencies]; samples: [resamples, latencies]. None: no turn has the latency."""
    means = _over(sums.sum(axis=0), nums.sum(axis=0))
    found: dict[LatencyName, Interval | None] = {}
    for column, name in enumerate(LATENCIES):
        drawn = samples[~np.isnan(samples[:, column]), column]  # a resample may hold no turn that has it
        count = int(np.count_nonzero(nums[:, column]))
        found[name] = _interval(means[column] / NS_PER_S, [drawn], count, NS_PER_S) if count else None
    return found


def _over(sums: Array, nums: Array) -> Array:
    """nan where there is nothing to take the mean of."""
    means: Array = np.divide(sums, nums, out=np.full(sums.shape, np.nan), where=nums > 0)
    return means


def _ratio(a: Array, b: Array, *, paired: bool) -> Ratio:
    """a, b: [repeats]"""
    pairs = a / b if paired else (a[:, None] / b[None, :]).flatten()
    return Ratio(float(a.mean() / b.mean()), float(pairs.min()), float(pairs.max()), len(pairs))


def _interval(value: float, samples: list[Array], count: int, divisor: float = 1.0) -> Interval:
    """count: trajectories that were resampled."""
    return spread(float(value), np.concatenate(samples) / divisor, count)
