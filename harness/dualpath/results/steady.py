"""The steady window of a run, by named rules that were set before any run was looked at: one for each kind of feed.

`mean-150s-30min` is the paper's, for online runs: the last window of 150 s, where the run is steady (`termination.py`).

`cold-start-to-half` is for offline runs. An offline run has three phases. All agents start at once with nothing stored
(cold start: first prompts are computed, nothing is loaded); then agents loop; then they finish one by one and the load
thins out until single stragglers remain. A statement about a saturated link is about the middle only, so the window

- starts when the last trajectory has finished its first turn: from here on every turn can have a hit;
- ends when the number of unfinished trajectories first falls below the larger of
    half of the agents                       (below it, the load is no longer the one that was offered), and
    4 x the SNICs that the arm may read with (an agent reads during a part of its turn only, so fewer agents
                                             leave links idle because of their number, not because of the arm).

Both must hold, hence the larger count, which is reached first. With few agents the second term decides, and with
fewer than 4 agents per SNIC there is no steady state to speak of. Everything outside the window is left out.
There is no window (None) where it would be empty.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from dualpath.results import termination
from dualpath.results.run import Run, require_result

RULE = "cold-start-to-half"  # by which links are judged
NONE = "none"
AGENTS_PER_SNIC = 4


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open interval of the run's clock, [start_ns, end_ns)."""

    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a rule says of a run."""

    rule: str  # its name
    window: Window | None
    reason: str  # in words: what the window is, or why there is none


def steady_window(run: Run) -> Window | None:
    """By RULE; None where it gives none, or is for another kind of feed. Raises RunError for a void run."""
    found = ruling(run)
    return found.window if found.rule == RULE else None


def ruling(run: Run) -> Ruling:
    """Of the rule for the run's kind of feed. Raises RunError for a void run."""
    require_result(run)
    mode = run.manifest.feed.mode
    return RULES[mode](run) if mode in RULES else Ruling(NONE, None, f"no rule for {mode} arrivals")


def _cold_start_to_half(run: Run) -> Ruling:
    first_ends = run.turns.sort("turn").group_by("trajectory").agg(pl.col("end_ns").first())
    start_ns = int(first_ends.select(pl.col("end_ns").max()).collect().item())
    last_ends = run.turns.group_by("trajectory").agg(pl.col("end_ns").max()).select(pl.col("end_ns").sort())
    ends_ns: list[int] = last_ends.collect()["end_ns"].to_list()
    limit = max(len(ends_ns) / 2, AGENTS_PER_SNIC * len(run.read_nodes()))
    end_ns = _falls_below(ends_ns, limit)
    if end_ns is None:
        return Ruling(RULE, None, f"{len(ends_ns)} agents are too few, {math.ceil(limit)} are wanted")
    if end_ns <= start_ns:
        return Ruling(RULE, None, f"fewer than {math.ceil(limit)} agents are left when the last first turn ends")
    return Ruling(RULE, Window(start_ns, end_ns), f"{math.ceil(limit)} or more of {len(ends_ns)} agents loop")


def _falls_below(ends_ns: list[int], limit: float) -> int | None:
    """When the count of trajectories not yet ended first falls below `limit`; None if it starts there."""
    must_end = len(ends_ns) - math.ceil(limit) + 1
    return ends_ns[must_end - 1] if must_end >= 1 else None


def _mean_150s_30min(run: Run) -> Ruling:
    stop = termination.termination_of(run)
    if stop.reason == "steady":
        window = Window(int(stop.start_s * 1e9), int(stop.end_s * 1e9))
        return Ruling(termination.RULE, window, f"mean TTFT within {termination.VARIATION:.0%} of 30 minutes earlier")
    when = f"after about {termination.arrivals_s(run):g} s" if stop.reason == "arrivals ended" else f"at {stop.end_s} s"
    return Ruling(termination.RULE, None, f"not steady: {stop.reason} {when}")


RULES: dict[str, Callable[[Run], Ruling]] = {"offline": _cold_start_to_half, "online": _mean_150s_30min}  # by feed
