"""Tables of latencies: of arms, of void runs, how late the harness was, and what arms differ by."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from dualpath.report.cells import Evidence
from dualpath.report.table import NONE, Table, number, table
from dualpath.results.intervals import FEWEST_GROUPS, Interval
from dualpath.results.latencies import LATENCIES, Latency, latencies
from dualpath.results.run import Run
from dualpath.results.send_lag import FLOOR_NS, RULE, SHARE, SendLag, send_lag

LATENCY_COLUMNS = ("mean, ms [95 %]", "p50", "p95", "p99", "turns (worth)", "failed")
DEGRADED = "DEGRADED"
_SENT = ("ttft", "turn_latency")  # latencies that a send lag is part of
_HOW = (
    "Latency counts from when a turn was due; the whole turn ends with its last token. Intervals in brackets are 95 % "
    "bootstraps: of trajectories and of stretches of time, their half-widths added in quadrature; [–]: fewer than "
    f"{FEWEST_GROUPS} of either, too few independent turns for one. Worth: as how many "
    "independent turns the autocorrelated series of turns counts. A failed turn, or one that a run cut short did not "
    "come to, has infinite latency: TTST and TPOT only if it was to generate two tokens or more."
)


def latency_cells(found: Latency) -> tuple[str, ...]:
    """Of LATENCY_COLUMNS."""
    spread = (_interval(each) for each in (found.mean, found.p50, found.p95, found.p99))
    return *spread, f"{found.turns:,} ({found.effective:,.0f})", f"{found.failed:,}"


def lag_text(lag: SendLag | None) -> str:
    if lag is None:
        return f"{NONE} (time is virtual, or no turn was sent)"
    shown, limits = (
        ", ".join(f"{name} {_shown(value, 1e-6)}" for name, value in pairs)
        for pairs in (
            (("p50", lag.p50_ns), ("p99", lag.p99_ns), ("max", lag.max_ns)),
            (("p50", lag.p50_limit_ns), ("p99", lag.p99_limit_ns)),
        )
    )
    return f"{shown} ms (allowed: {limits})" + _degraded([lag])


def latency(evidence: Evidence) -> Table:
    """One row per cell and latency."""
    rows = [
        (cell.group, cell.arm, LATENCIES[found.name] + (flag if found.name in _SENT else ""), *latency_cells(found))
        for cell in evidence.cells
        for flag in [_degraded(_lags(cell.runs))]
        for found in latencies(cell.runs)
    ]
    return table(
        "Latency",
        ("cluster|", "arm|", "latency|", *LATENCY_COLUMNS),
        rows,
        f"{_HOW} Over all turns of all repeats: nothing is cut at the start or the end. {DEGRADED}: see Send lag.",
    )


def void_latency(evidence: Evidence) -> Table:
    """What void runs did, for whoever looks for the reason. No other number uses them."""
    rows = [
        (run.cluster.name, run.arm, LATENCIES[found.name], *latency_cells(found))
        for run in evidence.void
        for found in latencies(run)
        if found.turns
    ]
    return table("Latency in void runs", ("cluster|", "arm|", "latency|", *LATENCY_COLUMNS), rows, _HOW)


def send_lags(evidence: Evidence) -> Table:
    rows = []
    for cell in evidence.cells:
        lags = _lags(cell.runs)
        if not lags:
            continue
        worst = max(lags, key=lambda lag: (lag.is_degraded, lag.p99_ns))
        numbers = (worst.p50_ns, worst.p99_ns, worst.max_ns, worst.p50_limit_ns, worst.p99_limit_ns)
        late = sum(lag.is_degraded for lag in lags)
        verdict = f"{_degraded(lags).strip()}, {late} of {len(lags)} runs" if late else "in time"
        rows.append((cell.group, cell.arm, *(_shown(value, 1e-6) for value in numbers), verdict))
    return table(
        "Send lag",
        ("cluster|", "arm|", "p50, ms", "p99", "max", "allowed p50", "allowed p99", "harness|"),
        rows,
        "How long after it could be sent a turn was sent: after it was due, and the turn before had persisted the "
        f"blocks that it is to find. It is part of TTFT. Of the worst repeat. Rule “{RULE}”: degraded where p50 or p99 "
        f"is above {SHARE:.0%} of the same percentile of TTFT, and above {FLOOR_NS / 1e6:g} ms. Offline, all agents "
        "are due at once and are sent one after the other.",
    )


def differences(evidence: Evidence) -> Table:
    """Arms against the baseline of their group: layerwise, or the first there is."""
    rows = []
    for group in evidence.groups:
        baseline = evidence.cell(group, "layerwise") or evidence.of_group(group)[0]
        for cell in evidence.of_group(group):
            found = evidence.speed_up(cell, baseline.arm)
            if found is None:
                continue
            whole = _interval(found.trajectory_jct_difference_s, 1.0)
            turns = (_interval(found.latency_differences_s[name], 1e3) for name in LATENCIES)
            rows.append((group, cell.arm, baseline.arm, whole, *turns))
    names = (f"{name}, ms" for name in LATENCIES.values())
    return table(
        "Paired differences",
        ("cluster|", "arm|", "less the arm|", "trajectory, s [95 %]", *names),
        rows,
        "Mean of what trajectories, and their turns, take longer in an arm than in the other: below 0 it is faster. "
        "Paired trajectory by trajectory; 95 % bootstrap intervals, resampled by trajectory: they say how far it "
        "depends on which trajectories there were. What a machine does from run to run is not in them, and may alone "
        f"leave 0 outside. [–]: fewer than {FEWEST_GROUPS} trajectories, too few for one.",
    )


def degraded_caveat(runs: Sequence[Run]) -> str:
    """What a reader must know before any latency; empty where the harness was in time in all runs."""
    lags = _lags(runs)
    late = Counter(lag.degraded_at for lag in lags if lag.is_degraded)
    if not late:
        return ""
    number, kinds = late.total(), {" and ".join(percentiles): count for percentiles, count in late.items()}
    where = " at " + "".join(kinds)
    if len(kinds) > 1:
        where = f" ({', '.join(f'{count} at {kind}' for kind, count in sorted(kinds.items()))})"
    return (
        f"{number} of {len(runs)} runs {'is' if number == 1 else 'are'} {DEGRADED}{where}: there the harness sent "
        f"turns late by more than {SHARE:.0%} of TTFT, which is so much its own; see Send lag."
    )


def _lags(runs: Iterable[Run]) -> list[SendLag]:
    return [lag for run in runs if (lag := send_lag(run)) is not None]


def _degraded(lags: Iterable[SendLag]) -> str:
    """The flag, with a blank before it, and where it holds for any; or nothing."""
    found = sorted({percentile for lag in lags for percentile in lag.degraded_at})
    return f" {DEGRADED} at {' and '.join(found)}" if found else ""


def _interval(found: Interval | None, scale: float = 1e-6) -> str:
    """scale: from ns to ms, unless told otherwise."""
    if found is None:
        return NONE
    if not found.is_known:
        return f"{_shown(found.value, scale)} [{NONE}]"
    value, low, high = (_shown(each, scale) for each in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}]"


def _shown(value: float, scale: float) -> str:
    """Three digits, and all before the point."""
    shown = value * scale
    return f"{shown:,.0f}" if 1000 <= abs(shown) < math.inf else number(shown)
