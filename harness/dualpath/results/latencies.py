"""Latencies of a run's turns, from when each was due: mean and percentiles with intervals, and what they are worth.

Every turn that was planned counts. One that failed, or that the run did not come to because it was cut short, has
infinite latency: a system that drops its slowest turns is not to look fast. TTST and TPOT are of turns that were to
generate two tokens or more. Of turns that the run did not come to, run.json says how many were; where an older one
does not, all count.

Turns resemble each other in two ways: those of one agent, and those of one time, when queues are as they are. So there
are two bootstraps, of trajectories and of stretches of time, and an interval combines both: a turn's luck has a part of
each, and the wider one alone would leave one out. Where there are too few of either, there is none. How long a stretch
is follows from the autocorrelation of the turns in the order in which they were due (`effective.py`); of ranks, as a
few slow turns, or infinite ones, would say nothing of the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from dualpath.results.effective import effective_size, stretches
from dualpath.results.intervals import Interval, combined
from dualpath.results.means import mean_interval
from dualpath.results.metrics import per_turn
from dualpath.results.percentiles import percentile_intervals
from dualpath.results.run import Run

LatencyName = Literal["ttft", "ttst", "tpot", "turn_latency"]
LATENCIES: dict[LatencyName, str] = {"ttft": "TTFT", "ttst": "TTST", "tpot": "TPOT", "turn_latency": "whole turn"}
OF_SEVERAL_TOKENS: tuple[LatencyName, ...] = ("ttst", "tpot")
QUANTILES = (0.5, 0.95, 0.99)

Values = npt.NDArray[np.float64]
Groups = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Latency:
    """Over all turns of all repeats that have it, in ns. TTST and TPOT: those that generate two tokens or more."""

    name: LatencyName
    turns: int  # failed ones among them
    failed: int
    effective: float  # independent values that the turns are worth
    mean: Interval | None  # None: no turn has the latency
    p50: Interval | None
    p95: Interval | None
    p99: Interval | None


def latencies(runs: Run | Sequence[Run], *, seed: int = 0) -> list[Latency]:
    """Every latency of repeats of one configuration; also of void runs."""
    runs = [runs] if isinstance(runs, Run) else list(runs)
    frames = [_planned(run) for run in runs]
    turns = pl.concat(
        frame.with_columns(pl.lit(index, pl.Int64).alias("run")) for index, frame in enumerate(frames)
    ).with_columns(pl.col("trajectory").rank("dense").cast(pl.Int64) - 1)
    return [_latency(turns, name, seed) for name in LATENCIES]


def _planned(run: Run) -> pl.DataFrame:
    """trajectory and every latency, of all turns in the order in which they were due; those never due come last."""
    order = run.turns.select("trajectory", "turn", "due_ns")
    told = per_turn(run).join(order, on=["trajectory", "turn"]).sort("due_ns", "trajectory", "turn").collect()
    told = told.select("trajectory", *LATENCIES)
    missing = max(0, run.manifest.turns_planned - told.height)
    names = told["trajectory"].unique(maintain_order=True)  # whose they were is not known: shared out evenly
    owners = [names[index % len(names)] if len(names) else "" for index in range(missing)]
    is_of_several = pl.int_range(pl.len()) < _missing_of_several(run, told, missing)
    never = pl.DataFrame({"trajectory": owners}, {"trajectory": pl.String}).with_columns(
        (pl.when(is_of_several).then(math.inf) if name in OF_SEVERAL_TOKENS else pl.lit(math.inf)).alias(name)
        for name in LATENCIES
    )
    return pl.concat([told, never])


def _missing_of_several(run: Run, told: pl.DataFrame, missing: int) -> int:
    """How many of the turns that the run did not come to were to generate two tokens or more."""
    planned = run.manifest.turns_of_several_tokens_planned
    return missing if planned is None else min(missing, max(0, planned - told["ttst"].count()))


def _latency(turns: pl.DataFrame, name: LatencyName, seed: int) -> Latency:
    turns = turns.drop_nulls(name)
    values, trajectories = turns[name].to_numpy(), turns["trajectory"].to_numpy()
    effective, in_time = _stretches(turns, name)
    by_trajectory, by_time = (
        [mean_interval(values, groups, seed=seed), *percentile_intervals(values, groups, QUANTILES, seed=seed)]
        for groups in (trajectories, in_time)
    )
    mean, *percentiles = (_both(one, other) for one, other in zip(by_trajectory, by_time, strict=True))
    return Latency(name, len(values), int(np.isinf(values).sum()), effective, mean, *percentiles)


def _both(one: Interval | None, other: Interval | None) -> Interval | None:
    """No latency is below 0, whatever is added up."""
    if one is None or other is None:
        return None
    both = combined(one, other)
    return replace(both, low=max(both.low, 0.0)) if both.is_known else both


def _stretches(turns: pl.DataFrame, name: LatencyName) -> tuple[float, Groups]:
    """What the turns are worth, and the stretch of time each is in. A repeat is a series of its own."""
    total, next_group, groups = 0.0, 0, [np.zeros(0, np.int64)]
    for _, series in turns.group_by("run", maintain_order=True):
        effective = effective_size(series[name].rank().to_numpy())
        total += effective
        groups.append(next_group + stretches(series.height, effective))
        next_group = int(groups[-1][-1]) + 1
    return total, np.concatenate(groups)
