"""When an online run ends, by the paper's rule (its section 7.2), applied to a run's rows afterwards.

The paper stops a run when TTFT exceeds 4 s, or at steady state: "TTFT variation within a 150 s window under 5 %
against 30 minutes earlier". Our reading, the named rule `mean-150s-30min`: time is cut into windows of 150 s, and at
the end of each the mean TTFT of the first tokens that came in it is looked at. Above 4 s the run is overloaded; within
5 % of the mean of the window 30 minutes earlier it is steady. A run that is neither when arrivals end stops there.
Latencies are those of the last window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import polars as pl

from dualpath.results.run import Run

RULE = "mean-150s-30min"
WINDOW_S = 150
EARLIER_S = 30 * 60
VARIATION = 0.05
TTFT_LIMIT_S = 4.0
TPOT_LIMIT_S = 0.05

Reason = Literal["overloaded", "steady", "arrivals ended"]


class Stop(NamedTuple):
    """The window after which a run is over."""

    window: int
    reason: Reason
    window_s: float = WINDOW_S

    @property
    def start_s(self) -> float:
        return self.window * self.window_s

    @property
    def end_s(self) -> float:
        return self.start_s + self.window_s


def termination(ttft_s: Sequence[float | None], *, limit_s: float = TTFT_LIMIT_S, window_s: float = WINDOW_S) -> Stop:
    """ttft_s: mean TTFT by window from the start, None where no first token came; at least one window. limit_s: above
    it a run is overloaded. window_s: with another one, what is compared lies as many windows back as in the paper."""
    back = EARLIER_S // WINDOW_S
    for window, mean in enumerate(ttft_s):
        if mean is None:
            continue
        if mean > limit_s:
            return Stop(window, "overloaded", window_s)
        earlier = ttft_s[window - back] if window >= back else None
        if earlier is not None and (mean == earlier or abs(mean - earlier) < VARIATION * earlier):
            return Stop(window, "steady", window_s)
    return Stop(len(ttft_s) - 1, "arrivals ended", window_s)


def termination_of(run: Run) -> Stop:
    """Of an online run, while agents arrive."""
    means = (
        run.turns.group_by((pl.col("first_token_ns") // int(WINDOW_S * 1e9)).alias("window"))
        .agg(((pl.col("first_token_ns") - pl.col("due_ns")).mean() / 1e9).alias("ttft_s"))
        .collect()
    )
    found = dict(means.iter_rows())
    return termination([found.get(window) for window in range(max(1, int(arrivals_s(run) + 1) // WINDOW_S))])


def arrivals_s(run: Run) -> float:
    """For about so long agents arrive: their number by their rate. 0 where they do not arrive at a rate."""
    trace, feed = run.manifest.trace, run.manifest.feed
    return trace.agents / feed.rate_per_s if feed.rate_per_s else 0.0
