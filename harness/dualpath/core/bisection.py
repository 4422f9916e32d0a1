"""Where on a ladder of rates a system stops keeping its limits: which rate to try next, and what is known by then.

Assumes that a system which fails at a rate fails at every larger one. A few rates above the first that fails are tried
as well, so that the assumption is looked at where it matters: `passes_again` says where it did not hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

Verdicts = Mapping[int, bool]  # place on the ladder -> whether the limits were kept there


class Bracket(NamedTuple):
    """Places on the ladder, neighbours once all is known."""

    met: int  # the largest that keeps the limits; -1: not even the smallest
    failed: int  # the smallest that does not; the number of rates: none


def ladder(low: float, high: float, within: float) -> tuple[float, ...]:
    """Rates from low to high, each the same factor, at most 1 + within, above the one before; four digits or more."""
    steps = max(1, math.ceil(math.log(high / low) / math.log1p(within) - 1e-9))
    digits = max(4, 2 - math.floor(math.log10(within)))
    between = (low * (high / low) ** (step / steps) for step in range(1, steps))
    return (low, *(float(f"{rate:.{digits}g}") for rate in between), high)


def bracket(num_rates: int, verdicts: Verdicts) -> Bracket:
    """What bisection has found so far. verdicts: of both ends, at least."""
    if not verdicts[0]:
        return Bracket(-1, 0)
    if verdicts[num_rates - 1]:
        return Bracket(num_rates - 1, num_rates)
    met, failed = 0, num_rates - 1
    while failed - met > 1 and (middle := (met + failed) // 2) in verdicts:
        if verdicts[middle]:
            met = middle
        else:
            failed = middle
    return Bracket(met, failed)


def next_place(num_rates: int, verdicts: Verdicts, beyond: int = 1) -> int | None:
    """Where to try next; None: all is known. beyond: rates above the first that fails that are tried as well."""
    for end in (0, num_rates - 1):
        if end not in verdicts:
            return end
    found = bracket(num_rates, verdicts)
    if found.failed - found.met > 1:
        return (found.met + found.failed) // 2
    above = range(found.failed + 1, min(found.failed + 1 + beyond, num_rates))
    return next((place for place in above if place not in verdicts), None)


def passes_again(verdicts: Verdicts) -> list[int]:
    """Places where the limits were kept though they were not at a smaller rate."""
    first_failed = min((place for place, met in verdicts.items() if not met), default=math.inf)
    return sorted(place for place, met in verdicts.items() if met and place > first_failed)
