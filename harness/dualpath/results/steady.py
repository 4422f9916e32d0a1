"""The steady window of an offline run: the named rule `cold-start-to-half`, set before any run was looked at.

An offline run has three phases. All agents start at once with nothing stored (cold start: first prompts are
computed, nothing is loaded); then agents loop; then they finish one by one and the load thins out until single
stragglers remain. A statement about a saturated link is about the middle only, so the window

- starts when the last trajectory has finished its first turn: from here on every turn can have a hit;
- ends when the number of unfinished trajectories first falls below the larger of
    half of the agents                       (below it, the load is no longer the one that was offered), and
    4 x the SNICs that the arm may read with (an agent reads during a part of its turn only, so fewer agents
                                             leave links idle because of their number, not because of the arm).

Both must hold, hence the larger count, which is reached first. With few agents the second term decides, and with
fewer than 4 agents per SNIC there is no steady state to speak of. Everything outside the window is left out.
There is no window (None) in a run that is not offline, or where it would be empty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import polars as pl

from dualpath.results.run import Run, require_result

RULE = "cold-start-to-half"
AGENTS_PER_SNIC = 4


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open interval of the run's clock, [start_ns, end_ns)."""

    start_ns: int
    end_ns: int


def steady_window(run: Run) -> Window | None:
    """The run's steady window by the rule above. Raises RunError for a void run."""
    require_result(run)
    if run.manifest.feed.mode != "offline":
        return None
    first_ends = run.turns.sort("turn").group_by("trajectory").agg(pl.col("end_ns").first())
    start_ns = int(first_ends.select(pl.col("end_ns").max()).collect().item())
    last_ends = run.turns.group_by("trajectory").agg(pl.col("end_ns").max()).select(pl.col("end_ns").sort())
    ends_ns: list[int] = last_ends.collect()["end_ns"].to_list()
    end_ns = _falls_below(ends_ns, max(len(ends_ns) / 2, AGENTS_PER_SNIC * len(run.read_nodes())))
    return Window(start_ns, end_ns) if end_ns is not None and end_ns > start_ns else None


def _falls_below(ends_ns: list[int], limit: float) -> int | None:
    """When the count of trajectories not yet ended first falls below `limit`; None if it starts there."""
    must_end = len(ends_ns) - math.ceil(limit) + 1
    return ends_ns[must_end - 1] if must_end >= 1 else None
