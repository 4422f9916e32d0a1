"""A run as curves over its time: what was prefilled, how long first tokens took, who is still under way."""

from __future__ import annotations

import polars as pl

from dualpath.results.run import Run

_NS = 1_000_000_000


def prompt_rate(run: Run, window_s: int) -> pl.DataFrame:
    """t_s (middle of the window), tokens_per_s: prompt tokens, hits included, by when their first token came."""
    tokens = (pl.col("hit_tokens").cast(pl.Int64) + pl.col("miss_tokens")).sum()
    return _by_window(run, window_s).agg((tokens / window_s).alias("tokens_per_s")).sort("t_s").collect()


def mean_ttft(run: Run, window_s: int) -> pl.DataFrame:
    """t_s, ttft_s: mean over the first tokens that came in the window."""
    mean = (pl.col("first_token_ns") - pl.col("due_ns")).mean() / _NS
    return _by_window(run, window_s).agg(mean.alias("ttft_s")).sort("t_s").collect()


def _by_window(run: Run, window_s: int) -> pl.lazyframe.group_by.LazyGroupBy:
    window = pl.col("first_token_ns") // (window_s * _NS)
    return run.turns.group_by(((window + 0.5) * window_s).alias("t_s"))


def running(run: Run, times_s: list[float]) -> list[int]:
    """How many trajectories have begun and not ended at each time."""
    spans = run.turns.group_by("trajectory").agg(pl.col("due_ns").min(), pl.col("end_ns").max()).collect()
    begun, ended = spans["due_ns"].sort(), spans["end_ns"].sort()
    return [
        int(begun.search_sorted(int(t * _NS), side="right")) - int(ended.search_sorted(int(t * _NS), side="right"))
        for t in times_s
    ]
