"""Latencies of an online run while its load is offered: in the window at which the rule of termination.py stops it.

A turn belongs to the window in which it fell due, and counts with all of its wait: the rows of a run that has ended
know that wait, and what an overloaded system leaves waiting must not be missing where it is judged. (The paper watches
a live run, so paper/online.py puts a turn where its first token came.)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import polars as pl

from dualpath.core.errors import RunError
from dualpath.results.metrics import NS_PER_S, per_turn, summary_of
from dualpath.results.run import Run, require_result
from dualpath.results.slo import LATENCIES, Slo
from dualpath.results.termination import Stop, arrivals_s, termination


class Offered(NamedTuple):
    """Where a run was judged, and what it showed there."""

    stop: Stop
    turns: int  # that fell due in the window, 1 or more
    latencies_ns: dict[str, float | None]  # by `TAG_ns`, as Slo.is_met takes them


def offered(run: Run, slo: Slo, window_s: float) -> Offered:
    """Above the SLO's mean TTFT, if it limits that, the run is overloaded. Raises RunError for a void run, and where no
    turn fell due in the window: such a run decides nothing."""
    require_result(run)
    limit_ns = dict(slo.limits_ns).get("ttft", math.inf)
    stop = termination(_ttft_by_window(run, window_s), limit_s=limit_ns / NS_PER_S, window_s=window_s)
    start_ns, end_ns = int(stop.start_s * NS_PER_S), int(stop.end_s * NS_PER_S)
    within = run.turns.filter(pl.col("due_ns") >= start_ns, pl.col("due_ns") < end_ns)
    found = summary_of(within)
    turns = int(within.select(pl.len()).collect().item())
    if not turns:
        raise RunError(
            f"{run.directory}: no turn fell due from {stop.start_s:g} to {stop.end_s:g} s, where the SLO is judged; "
            "let agents arrive for longer (--arrivals-s, or more --agents), or offer a larger rate (--low)"
        )
    return Offered(stop, turns, {f"{tag}_ns": found[tag] for tag in LATENCIES})


def _ttft_by_window(run: Run, window_s: float) -> list[float | None]:
    """Mean TTFT, s, by whole window in which agents arrive; at least the first. The last of several has turns."""
    num_windows = max(1, int(arrivals_s(run) / window_s + 1e-6))
    due = run.turns.select("trajectory", "turn", window=pl.col("due_ns") // int(window_s * NS_PER_S))
    means = (
        due.join(per_turn(run), on=["trajectory", "turn"])
        .group_by("window")
        .agg(pl.col("ttft").mean() / NS_PER_S)
        .collect()
    )
    found = dict(means.iter_rows())
    windows = [found.get(window) for window in range(num_windows)]
    while len(windows) > 1 and windows[-1] is None:
        windows.pop()
    return windows
