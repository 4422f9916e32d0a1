"""Beyond the paper: tool time between turns, which stretches a trajectory r-fold (section 8.2 could not afford it)."""

from __future__ import annotations

import math
from collections.abc import Iterable

from matplotlib.lines import Line2D

from dualpath.paper.cells import CLUSTERS, Cell, MaxLen
from dualpath.paper.closed_form import KV_BYTES
from dualpath.paper.draw import GAP, LABELS, legend, panels
from dualpath.paper.late import Late
from dualpath.paper.late import measure as measure_late
from dualpath.paper.part import Part
from dualpath.paper.runs import Results
from dualpath.report.figure import Figure, finish
from dualpath.report.style import INK, SOFT_INK, arm_colour
from dualpath.report.table import NONE, Table, number, per_cent, shown, table
from dualpath.results.checks import Check, at_most
from dualpath.results.reuse import Reuse, reuse

CLUSTER, MODEL = "ds660b-2p4d", "DS 660B"
MAX_LEN: MaxLen = "48k"  # the set whose trajectory times agree with Fig 11
STRETCHES = (1, 2, 4, 8)
TURN_S = 6.5  # what a turn takes without gaps at the common rate
RATES = {
    "basic": (0.3, 0.35, 0.4, 0.45),
    "layerwise": (0.4, 0.45, 0.5, 0.55),
    "dualpath": (0.4, 0.6, 0.65, 0.7, 0.75),
}
STEP = 0.05  # agents/s
COMMON = ("dualpath", 0.4)  # arm and rate at which stretches are compared
ARRIVALS_S = {1: 4500, 2: 4500, 4: 6000, 8: 12_000}
CACHES_TB = (0.06, 0.12, 0.18, 0.24, 0.36, 0.48, 0.72, 1.0, 1.4, 2.0, 2.8, 4.0, 9.0)  # of all six nodes together
NODE_TB = 1.5  # DRAM of a node that is used as a cache tier (paper A.4, SGL(MC))
NUM_NODES = 6


def _cell(arm: str, rate_per_s: float, stretch: int) -> Cell:
    agents = math.ceil(round(rate_per_s * ARRIVALS_S[stretch], 6))
    return Cell(CLUSTER, MAX_LEN, arm, agents, rate_per_s, gap_s=(stretch - 1) * TURN_S)


CELLS = tuple(_cell(arm, rate, r) for r in STRETCHES for arm, rates in RATES.items() for rate in rates)


def report(results: Results) -> Part:
    late = {cell: _late(results, cell) for cell in CELLS}
    caches = {r: _reuse(results, late, _cell(*COMMON, r)) for r in STRETCHES}
    return Part(
        id="gaps",
        title="Beyond the paper: tool time between turns",
        text=f"Gaps between turns are drawn (exponential; mean (r - 1) x {TURN_S:g} s) so that a trajectory takes r "
        f"times as long; {' '.join(CLUSTERS[CLUSTER])}, {MAX_LEN.upper()} set. Latencies are means over the last "
        "quarter of the arrivals, which last long enough for the number of agents under way to settle; a rate is "
        "within the SLO where TTFT <= 4 s and TPOT <= 50 ms there. The paper expects the working set to grow with r "
        "squared, because capacity would grow with r. Agents at once do; agents per second do not: a gap takes no "
        "work off the cluster, so the rate at which it is full stays what it was, and the working set grows with r. "
        "What gaps change is how soon KV is read again: a cache of DRAM that all nodes share (least recently used "
        "first out) serves nearly every hit once it holds the working set, and next to none at a fraction of it; so "
        "what the paper calls marginal is a matter of how large a cache is against r.",
        checks=tuple(_checks(results, late)),
        figures=(_figure(late, caches),),
        tables=(_capacities(late), _by_rate(late), _caches(caches)),
    )


def _late(results: Results, cell: Cell) -> Late | None:
    run = results.run(cell)
    return None if run is None else measure_late(run)


def _reuse(results: Results, late: dict[Cell, Late | None], cell: Cell) -> Reuse | None:
    run, found = results.run(cell), late[cell]
    return None if run is None or found is None else reuse(run, found.begin_ns, found.end_ns)


def capacity(late: dict[Cell, Late | None], arm: str, stretch: int) -> float | None:
    """The largest rate such that it and all smaller ones that were run are within the SLO; None: a run is missing."""
    best = 0.0
    for rate in RATES[arm]:
        found = late[_cell(arm, rate, stretch)]
        if found is None:
            return None
        if not found.is_within_slo:
            break
        best = rate
    return best


def _checks(results: Results, late: dict[Cell, Late | None]) -> Iterable[Check]:
    plain = late[_cell(*COMMON, 1)]
    for r in STRETCHES[1:]:
        cell = _cell(*COMMON, r)
        found = late[cell]
        is_there = plain is not None and found is not None
        why, rows = results.why_not(cell, _cell(*COMMON, 1)), results.rows(cell, _cell(*COMMON, 1))
        yield at_most(
            f"beyond.gaps.stretch.{r}",
            f"{COMMON[0]}, {COMMON[1]:g} agents/s: trajectory time over {r} x that without gaps, |ratio - 1|",
            abs(found.trajectory_s / (r * plain.trajectory_s) - 1) if is_there and found and plain else None,
            0.10,
            note=why,
            rows=rows,
        )
        yield at_most(
            f"beyond.gaps.working_set.{r}",
            f"{COMMON[0]}, {COMMON[1]:g} agents/s: working set over {r} x that without gaps, |ratio - 1|",
            abs(found.live_tokens / (r * plain.live_tokens) - 1) if is_there and found and plain else None,
            0.15,
            note=why,
            rows=rows,
        )
    for arm in RATES:
        found_ = [capacity(late, arm, r) for r in STRETCHES]
        known = [rate for rate in found_ if rate is not None]
        cells = [_cell(arm, rate, r) for r in STRETCHES for rate in RATES[arm]]
        yield at_most(
            f"beyond.gaps.capacity.{arm}",
            f"{arm}: agents/s within the SLO, largest less smallest over r = 1, 2, 4, 8, in steps of {STEP:g}",
            round((max(known) - min(known)) / STEP) if len(known) == len(found_) else None,
            1,
            unit="steps",
            note=results.why_not(*cells) or ", ".join(f"r {r}: {c:g}" for r, c in zip(STRETCHES, known, strict=True)),
            rows=results.rows(*cells),
        )


def _gb(found: Late | None) -> float | None:
    return None if found is None else found.live_tokens * KV_BYTES[MODEL] / 1e9


def _figure(late: dict[Cell, Late | None], caches: dict[int, Reuse | None]) -> Figure:
    drawing, grid = panels(1, 3, 2.5)
    rates, sets, saved = grid[0]
    for arm in RATES:
        rates.plot(
            STRETCHES,
            _or_gap(capacity(late, arm, r) for r in STRETCHES),
            color=arm_colour(arm),
            marker="o",
            markersize=3.5,
        )
    rates.set_title("capacity, agents/s")
    rates.set_ylim(bottom=0)
    sets_shown = [_gb(late[_cell(*COMMON, r)]) for r in STRETCHES]
    sets.plot(STRETCHES, _or_gap(sets_shown), color=arm_colour(COMMON[0]), marker="o", markersize=3.5)
    first = sets_shown[0]
    if first is not None:
        sets.plot(STRETCHES, [first * r for r in STRETCHES], color=SOFT_INK, linewidth=0.9, linestyle="--")
        sets.plot(STRETCHES, [first * r * r for r in STRETCHES], color=SOFT_INK, linewidth=0.9, linestyle=":")
    sets.set_yscale("log")
    sets.set_title(f"working set, GB ({COMMON[1]:g}/s)")
    for axes in (rates, sets):
        axes.set_xscale("log", base=2)
        axes.set_xticks(STRETCHES, [str(r) for r in STRETCHES])
        axes.minorticks_off()
        axes.set_xlabel("r")
    for place, (r, found) in enumerate(caches.items()):
        if found is not None:
            shades = (1.0, 0.7, 0.5, 0.32)
            shares = [100 * found.saved(tb * 1e12 / KV_BYTES[MODEL]) for tb in CACHES_TB]
            saved.plot(CACHES_TB, shares, color=INK, alpha=shades[place], linewidth=1.6)
            half = next((at for at in zip(CACHES_TB, shares, strict=True) if at[1] >= 50), (CACHES_TB[-1], shares[-1]))
            saved.annotate(f"r {r}", half, xytext=(-4, 3), textcoords="offset points", size=8, ha="right")
    saved.axvline(NODE_TB * NUM_NODES, color=SOFT_INK, linewidth=0.9, linestyle=":")
    saved.set_xscale("log")
    saved.set_title("read from DRAM, %")
    saved.set_xlabel("DRAM of all nodes, TB")
    saved.set_ylim(0, 105)
    drawing.tight_layout(w_pad=1.0)
    lines = [
        Line2D([], [], color=SOFT_INK, linestyle="--", linewidth=0.9, label="x r"),
        Line2D([], [], color=SOFT_INK, linestyle=":", linewidth=0.9, label="x r squared"),
    ]
    legend(drawing, tuple(RATES), lines, rings=False)
    return finish(
        drawing,
        "gaps",
        "What tool time changes",
        "r: how much longer trajectories take because of gaps. Right: the share of hit KV that a shared cache of DRAM "
        f"would serve ({LABELS[COMMON[0]]}, {COMMON[1]:g} agents/s); dotted: {NODE_TB:g} TB "
        f"in each of {NUM_NODES} nodes.",
        gaps=GAP,
    )


def _or_gap(values: Iterable[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _capacities(late: dict[Cell, Late | None]) -> Table:
    rows = []
    for r in STRETCHES:
        of_arm = {arm: capacity(late, arm, r) for arm in RATES}
        row = [shown(r, "g"), *(shown(c, "g") for c in of_arm.values())]
        ours = of_arm["dualpath"]
        row += [number(ours / base) if ours and base else NONE for base in (of_arm["basic"], of_arm["layerwise"])]
        at = late[_cell("dualpath", ours, r)] if ours else None
        row += [number(at.agents if at else None), number(_gb(at))]
        rows.append(row)
    columns = ("r", *(f"{arm}, agents/s" for arm in RATES), "dualpath / basic", "dualpath / layerwise")
    note = (
        "Right: DualPath at its capacity. A capacity that is the largest rate of its arm in the table below is a bound."
    )
    return table("Capacity by stretch", (*columns, "agents under way", "working set, GB"), rows, note)


def _by_rate(late: dict[Cell, Late | None]) -> Table:
    rows = []
    for cell, found in late.items():
        if found is None:
            continue
        values = (found.ttft_s, found.tpot_s * 1e3, found.trajectory_s, found.agents, _gb(found))
        r = round(cell.gap_s / TURN_S) + 1
        rows.append((cell.arm, shown(r, "g"), shown(cell.rate_per_s, "g"), *map(number, values)))
    columns = (
        "system|",
        "r",
        "agents/s",
        "TTFT, s",
        "TPOT, ms",
        "trajectory, s",
        "agents under way",
        "working set, GB",
    )
    return table("Every rate", columns, rows, is_folded=True)


def _caches(caches: dict[int, Reuse | None]) -> Table:
    rows = [
        (
            shown(tb, "g"),
            shown(1e3 * tb / NUM_NODES, ",.0f"),
            *(per_cent(found and found.saved(tb * 1e12 / KV_BYTES[MODEL])) for found in caches.values()),
        )
        for tb in CACHES_TB
    ]
    columns = ("DRAM, TB", "per node, GB", *(f"r {r}" for r in caches))
    note = f"Share of hit KV that need not be read from storage; {COMMON[0]}, {COMMON[1]:g} agents/s, last quarter."
    return table("A cache of DRAM in front of storage", columns, rows, note)
