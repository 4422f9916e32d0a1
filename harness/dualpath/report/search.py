"""What a search for a rate found, as a table, sentences and JSON."""

from __future__ import annotations

import math
from collections import Counter
from statistics import median
from typing import Any

from dualpath.report.table import NONE, Table, number, table
from dualpath.results.capacity import Capacity
from dualpath.results.searched import Row, Searched

_ASSUMES = "a system that fails at a rate fails at every larger one; one rate above the first that fails is tried too"


def probes_table(found: Searched) -> Table:
    """One row per arm and rate."""
    tags = [tag for tag, _ in found.slo.limits_ns]
    rows = []
    for arm in found.arms:
        for rate in found.rates:
            if at := found.at(arm, rate):
                stops = Counter(row["stop"] for row in at)
                rows.append(
                    [
                        arm,
                        f"{rate:g}",
                        f"{sum(row['met'] for row in at)} of {len(at)}",
                        *(_spread(at, tag) for tag in tags),
                        ", ".join(f"{stop} {count}" for stop, count in sorted(stops.items())),
                    ]
                )
    return table(
        "Every rate",
        ["arm|", "agents/s", "repeats that meet it", *(f"{tag}, ms" for tag in tags), "stopped|"],
        rows,
        "Latencies from due time, of turns that fell due in the last window: median over repeats (range). Stopped: why "
        f"that window is the last, by the rule {found.rule}.",
    )


def _spread(rows: list[Row], tag: str) -> str:
    values = [row[f"{tag}_ns"] for row in rows if row[f"{tag}_ns"] is not None]
    if not values:
        return NONE
    shown = _ms(median(values))
    return shown if len(values) == 1 else f"{shown} ({_ms(min(values))}–{_ms(max(values))})"


def _ms(value_ns: float) -> str:
    return f"{value_ns / 1e6:,.0f}" if 1e9 <= value_ns < math.inf else number(value_ns, 1e-6)


def sentences(found: Searched) -> list[str]:
    """How to read the answer, and then the answer, a line for each arm."""
    lines: list[str] = []
    known = {arm: capacity for arm in found.arms if (capacity := found.capacity(arm)) is not None}
    for arm in found.arms:
        for repeat, rate in found.passes_again(arm):
            lines.append(
                f"{arm}: repeat {repeat} meets the SLO again at {rate:g} agents/s, above a rate at which it did not: "
                "around there the answer is not sharp; it is the first failure that counts"
            )
    for arm, capacity in known.items():
        met = [row for row in found.at(arm, capacity.met) if row["met"]] if capacity.met is not None else []
        unsteady = sum(row["stop"] != "steady" for row in met)
        if unsteady:
            lines.append(
                f"{arm}: in {unsteady} of {len(met)} runs that meet the SLO at {capacity.met:g} agents/s "
                "arrivals ended before a steady state; it may be less with more agents (--agents, --arrivals-s)"
            )
    lines += [f"void, decides nothing: {reason}" for reason in found.void]
    if known:
        lines.append(_how_to_read(found, next(iter(known.values())).level))
    return lines + [_answer(found, arm, known[arm]) if arm in known else f"{arm}: not known yet" for arm in found.arms]


def _how_to_read(found: Searched, level: float) -> str:
    lower = "" if found.repeats % 2 else " (of an even number, that is the lower median)"
    text = f"a rate meets the SLO where more than half of {found.repeats} repeats do{lower}; assumed: {_ASSUMES}"
    if found.repeats == 1:
        return (
            f"{text}; in brackets: the largest rate at which the one repeat met it and the smallest at which it did "
            "not. That is no interval: other seeds would find other rates (--repeats)"
        )
    return (
        f"{text}; in brackets: the lowest rate up to which every repeat met it, and the highest from which on none "
        "did. Every repeat has a seed of its own (arrivals, gaps, copies): the median over all possible seeds is "
        f"within the brackets in {level:.1%} of searches with {found.repeats} repeats"
    )


def _answer(found: Searched, arm: str, capacity: Capacity) -> str:
    smallest, largest = found.rates[0], found.rates[-1]
    low = f"below {smallest:g}" if capacity.low is None else f"{capacity.low:g}"
    high = f"above {largest:g}" if capacity.high is None else f"{capacity.high:g}"
    if capacity.verdict == "never":
        return f"never meets {found.slo.text}: not even at {smallest:g} agents/s [{low}, {high}] ({arm})"
    if capacity.verdict == "always":
        return f"always meets {found.slo.text}: even at {largest:g} agents/s [{low}, {high}] ({arm})"
    return f"largest rate that meets {found.slo.text}: {capacity.met:g} agents/s [{low}, {high}] ({arm})"


def as_value(found: Searched) -> dict[str, Any]:
    """The same for programs. Rates are agents per second; null: outside what was searched, on that side."""
    known = {arm: found.capacity(arm) for arm in found.arms}
    return {
        "slo": dict(found.slo.limits_ns),
        "unit": "ns",
        "rule": found.rule,
        "assumes": _ASSUMES,
        "interval": "range of the repeats' brackets (sign test)",
        "rates": list(found.rates),
        "repeats": found.repeats,
        "is_complete": not found.due(),
        "is_interrupted": found.is_interrupted,
        "void": list(found.void),
        "probes": len(found.rows),
        "arms": {
            arm: None
            if capacity is None
            else {
                "verdict": capacity.verdict,
                "rate_per_s": capacity.met,
                "fails_at_per_s": capacity.failed,
                "low_per_s": capacity.low,
                "high_per_s": capacity.high,
                "level": capacity.level,
                "passes_again": [list(pair) for pair in found.passes_again(arm)],
            }
            for arm, capacity in known.items()
        },
    }
