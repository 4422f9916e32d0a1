"""Each metric once: one Polars expression with its unit and formula.

Times stay in ns (as Float64, exact below 2**53 ns = 104 days, so that the parts of a TTFT sum to it exactly);
`shown_unit` says how a report prints them. A turn that failed has infinite latency.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import polars as pl

from dualpath.results.run import Run

NS_PER_S = 1e9


@dataclass(frozen=True, slots=True)
class Metric:
    """What one number means. `over` names the rows that `expr` is evaluated on."""

    tag: str
    over: Literal["turn", "trajectory", "run", "link", "window", "arms"]
    unit: str
    shown_unit: str
    formula: str
    larger_is_better: bool
    expr: pl.Expr


def _latency(value: pl.Expr) -> pl.Expr:
    return pl.when(pl.col("status") == "ok").then(value.cast(pl.Float64)).otherwise(math.inf)


def _latency_of_later_tokens(value: pl.Expr) -> pl.Expr:
    return pl.when(pl.col("generate_tokens") >= 2).then(_latency(value))


# A turn without a hit issues no read, and an oracle none at all: a time that did not happen takes no time.
_READ_START = pl.coalesce("read_start_ns", "scheduled_ns")
_READ_END = pl.coalesce("read_end_ns", "read_start_ns", "scheduled_ns")
_PROMPT = pl.col("hit_tokens").cast(pl.Int64) + pl.col("miss_tokens").cast(pl.Int64)
_FINISHED_NS = pl.when((pl.col("status") == "ok").all()).then(pl.col("end_ns").max()).otherwise(math.inf)


def _turn(tag: str, formula: str, expr: pl.Expr) -> Metric:
    return Metric(tag, "turn", "ns", "ms", formula, False, expr.alias(tag))


def _share(tag: str, over: Literal["run", "link", "arms"], formula: str, expr: pl.Expr) -> Metric:
    return Metric(tag, over, "1", "%", formula, True, expr.alias(tag))


def _rate(tag: str, formula: str, tokens: pl.Expr) -> Metric:
    expr = (tokens.sum() / (_FINISHED_NS / NS_PER_S)).alias(tag)
    return Metric(tag, "run", "tokens/s", "tokens/s", formula, True, expr)


_ALL = [
    _turn("ttft", "first_token - due", _latency(pl.col("first_token_ns") - pl.col("due_ns"))),
    _turn(
        "release",
        "released - due: until the turn before has persisted its blocks, which this one is to find",
        _latency(pl.col("released_ns") - pl.col("due_ns")),
    ),
    _turn("schedule", "scheduled - released", _latency(pl.col("scheduled_ns") - pl.col("released_ns"))),
    _turn("allocate", "read_start - scheduled", _latency(_READ_START - pl.col("scheduled_ns"))),
    _turn("read", "read_end - read_start", _latency(_READ_END - _READ_START)),
    _turn("prefill", "first_token - read_end", _latency(pl.col("first_token_ns") - _READ_END)),
    _turn(
        "ttst",
        "second_token - first_token; no value where one token is generated",
        _latency_of_later_tokens(pl.col("second_token_ns") - pl.col("first_token_ns")),
    ),
    _turn(
        "tpot",
        "(end - first_token) / (generate - 1); no value where one token is generated",
        _latency_of_later_tokens(
            (pl.col("end_ns") - pl.col("first_token_ns")) / (pl.col("generate_tokens") - 1),
        ),
    ),
    _turn("turn_latency", "end - due", _latency(pl.col("end_ns") - pl.col("due_ns"))),
    Metric(
        "trajectory_jct",
        "trajectory",
        "ns",
        "s",
        "last end - first due, over one trajectory's turns",
        False,
        (_FINISHED_NS - pl.col("due_ns").min()).alias("trajectory_jct"),
    ),
    Metric(
        "jct",
        "run",
        "ns",
        "s",
        "largest end over all turns, from the feed's start (0)",
        False,
        _FINISHED_NS.cast(pl.Float64).alias("jct"),
    ),
    _rate("prompt_rate", "sum of prompt tokens (hits included) / JCT", _PROMPT),
    _rate("generated_rate", "sum of generated tokens / JCT", pl.col("generate_tokens").cast(pl.Int64)),
    _share(
        "hit_rate_planned",
        "run",
        "sum of planned hit tokens / sum of prompt tokens",
        pl.col("planned_hit_tokens").cast(pl.Int64).sum() / _PROMPT.sum(),
    ),
    _share(
        "hit_rate_measured",
        "run",
        "sum of loaded hit tokens / sum of prompt tokens",
        pl.col("hit_tokens").cast(pl.Int64).sum() / _PROMPT.sum(),
    ),
    _share(
        "utilisation",
        "link",
        "bytes / (rate x width of the time bucket), one direction of one NIC",
        pl.col("bytes") / (pl.col("rate_bytes_per_s") * pl.col("width_ns") / NS_PER_S),
    ),
    Metric(
        "balance",
        "window",
        "1",
        "max/avg",
        "largest / mean of the hit bytes that each storage NIC of the cluster loaded in the window",
        False,
        (pl.col("bytes").max() / pl.col("bytes").mean()).alias("balance"),
    ),
    _share(
        "gap_closed",
        "arms",
        "(JCT of basic - JCT) / (JCT of basic - JCT of oracle)",
        (pl.col("jct_basic") - pl.col("jct")) / (pl.col("jct_basic") - pl.col("jct_oracle")),
    ),
]

METRICS: dict[str, Metric] = {metric.tag: metric for metric in _ALL}
TTFT_PARTS = ("release", "schedule", "allocate", "read", "prefill")


def per_turn(run: Run) -> pl.LazyFrame:
    """trajectory, turn and every turn metric, in ns."""
    return _per_turn(run.turns)


def _per_turn(turns: pl.LazyFrame) -> pl.LazyFrame:
    metrics = [metric.expr for metric in _ALL if metric.over == "turn"]
    return turns.select("trajectory", "turn", *metrics)


def per_trajectory(run: Run) -> pl.LazyFrame:
    """trajectory, first due_ns, end_ns (infinite if unfinished), trajectory_jct in ns; sorted by trajectory."""
    return _per_trajectory(run.turns)


def _per_trajectory(turns: pl.LazyFrame) -> pl.LazyFrame:
    return (
        turns.group_by("trajectory")
        .agg(
            pl.col("due_ns").min(),
            _FINISHED_NS.cast(pl.Float64).alias("end_ns"),
            METRICS["trajectory_jct"].expr,
        )
        .sort("trajectory")
    )


def summary(run: Run) -> dict[str, float | None]:
    """Every run metric, and mean, p50 and p99 of every latency, as {tag or tag_p50: value in the raw unit}.

    None: no turn has the value (TTST where every turn generates one token). Percentiles are order statistics
    (nearest rank), never interpolated, so that an infinite latency stays infinite.
    """
    return summary_of(run.turns)


def summary_of(turns: pl.LazyFrame) -> dict[str, float | None]:
    """The same of a table `turns` that is in no run directory."""
    whole = turns.select(metric.expr for metric in _ALL if metric.over == "run").collect()
    spread = _spread(_per_turn(turns), [metric.tag for metric in _ALL if metric.over == "turn"])
    trajectories = _spread(_per_trajectory(turns), ["trajectory_jct"])
    return {**whole.row(0, named=True), **spread, **trajectories}


def gap_closed(jct: float, jct_basic: float, jct_oracle: float) -> float | None:
    """Share of the basic-to-oracle gap that an arm closed; None where there is no gap to close."""
    if jct_basic <= jct_oracle:
        return None
    row = pl.DataFrame({"jct": [jct], "jct_basic": [jct_basic], "jct_oracle": [jct_oracle]}, orient="row")
    return float(row.select(METRICS["gap_closed"].expr).item())


def _spread(frame: pl.LazyFrame, tags: list[str]) -> dict[str, float | None]:
    statistics = [
        expr
        for tag in tags
        for expr in (
            pl.col(tag).mean(),
            pl.col(tag).quantile(0.5, "equiprobable").alias(f"{tag}_p50"),
            pl.col(tag).quantile(0.99, "equiprobable").alias(f"{tag}_p99"),
        )
    ]
    return frame.select(statistics).collect().row(0, named=True)
