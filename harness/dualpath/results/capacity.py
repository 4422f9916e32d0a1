"""The largest rate at which a system keeps an SLO, from repeats that each were bracketed by themselves.

Each repeat (its own seed: arrivals, tool times, and which trajectories are copied where a trace has too few) has its
own largest rate. A rate *meets* the SLO when more than half of the repeats keep it there, so the capacity is the
median of theirs; of an even number of repeats, the lower of the two in the middle. The interval runs from the smallest
lower end to the largest upper end of the repeats' brackets. That is the sign test's interval: of n draws all lie on
the same side of their median with probability 2^(1-n), so the range covers it with 1 - 2^(1-n), whatever the
distribution, also where a repeat's rate lies beyond the ladder. A bootstrap of three or five values would claim more
than it knows.

It covers what the seeds happened to draw and, on the real engine, what the machine did meanwhile. It does not cover
which trajectories are in the trace, nor the choice of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dualpath.core.bisection import Bracket


@dataclass(frozen=True, slots=True)
class Capacity:
    """Rates per second; None: outside the ladder, on that side."""

    verdict: Literal["found", "never", "always"]  # never: not even the smallest rate; always: even the largest
    met: float | None  # the largest rate that meets the SLO
    failed: float | None  # the smallest that does not
    low: float | None  # interval
    high: float | None
    level: float  # of the interval; 0: one repeat has none, and low and high are its bracket


def capacity(rates: Sequence[float], brackets: Sequence[Bracket]) -> Capacity:
    """rates: ascending. brackets: of each repeat, closed: places of neighbours."""
    majority = len(brackets) // 2  # so many more than one: more than half
    met = sorted((found.met for found in brackets), reverse=True)[majority]

    def rate(place: int) -> float | None:
        return rates[place] if 0 <= place < len(rates) else None

    return Capacity(
        "never" if met < 0 else "always" if met == len(rates) - 1 else "found",
        rate(met),
        rate(met + 1),
        rate(min(found.met for found in brackets)),
        rate(max(found.failed for found in brackets)),
        1 - 2.0 ** (1 - len(brackets)),
    )
