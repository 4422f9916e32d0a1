"""Section 8.2: how large the working set is: arrival rate x mean JCT x mean total length / 2 x bytes per token."""

from __future__ import annotations

import math

from dualpath.paper.capacity import SETS, rates_of
from dualpath.paper.cells import Cell, MaxLen, online
from dualpath.paper.closed_form import KV_BYTES
from dualpath.paper.draw import GAP_OR_SLO, panels
from dualpath.paper.numbers import Number, belief_of
from dualpath.paper.part import Part
from dualpath.paper.runs import Results
from dualpath.report.figure import Figure, finish
from dualpath.report.style import INK, SOFT_INK, arm_colour
from dualpath.report.table import NONE, Table, number, shown, table
from dualpath.trace.reader import TraceFile
from dualpath.trace.stats import trace_stats

CLUSTER, ARM = "ds660b-2p4d", "dualpath"
RATES = rates_of(CLUSTER, ARM)
CELLS = tuple(online(CLUSTER, max_len, ARM, rate) for max_len in SETS for rate in RATES)
SINGLE = 0.20
_DIMMED = {"64k": 1.0, "48k": 0.45}

BELIEFS: dict[str, str] = {}


def report(results: Results) -> Part:
    known = {
        row["agents_per_s"]: row["working_set_gb"] for row in results.theirs.table("working_set").iter_rows(named=True)
    }
    totals = {max_len: _mean_total_tokens(results, max_len) for max_len in SETS}
    numbers = []
    for rate, value in known.items():
        cell = online(CLUSTER, SETS[0], ARM, rate)
        id = f"paper.working_set.{rate:g}"
        numbers.append(
            Number(
                id=id,
                what=f"working set of DS 660B at {rate:g} agents/s",
                ours=formula_gb(results, cell, totals[SETS[0]]),
                theirs=value,
                tolerance=SINGLE,
                unit="GB",
                note=results.why_not(cell),
                rows=results.rows(cell),
                belief=belief_of(id, BELIEFS),
            )
        )
    return Part(
        id="working_set",
        title="Section 8.2: working set",
        text="By the paper's formula from the runs of Fig 10, and counted: the context of every trajectory under way, "
        "mean over the last window. If gaps between turns stretch a trajectory r-fold, it grows with r at the same "
        "rate, and with r squared at the capacity that then becomes possible.",
        numbers=tuple(numbers),
        figures=(_figure(results, known, totals),),
        tables=(_table(results, totals),),
    )


def _mean_total_tokens(results: Results, max_len: MaxLen) -> float:
    with TraceFile.open(results.root / "traces" / f"agents-{max_len}.parquet") as trace:
        return trace_stats(trace).table2.total


def formula_gb(results: Results, cell: Cell, total_tokens: float) -> float | None:
    point = results.point(cell)
    if point is None or point.trajectory_s is None or cell.rate_per_s is None:
        return None
    return cell.rate_per_s * point.trajectory_s * total_tokens / 2 * KV_BYTES["DS 660B"] / 1e9


def counted_gb(results: Results, cell: Cell) -> float | None:
    point = results.point(cell)
    return None if point is None else point.live_tokens * KV_BYTES["DS 660B"] / 1e9


def _figure(results: Results, known: dict[float, float], totals: dict[MaxLen, float]) -> Figure:
    drawing, grid = panels(1, 1, 2.6)
    axes = grid[0][0]
    for max_len in SETS:
        cells = [online(CLUSTER, max_len, ARM, rate) for rate in RATES]
        for style, values, what in (
            ("-", [formula_gb(results, cell, totals[max_len]) for cell in cells], "formula"),
            (":", [counted_gb(results, cell) for cell in cells], "counted"),
        ):
            shown = [
                value
                if value is not None and (point := results.point(cell)) is not None and point.is_within_slo
                else math.nan
                for cell, value in zip(cells, values, strict=True)
            ]
            axes.plot(
                RATES,
                shown,
                linestyle=style,
                color=arm_colour(ARM),
                alpha=_DIMMED[max_len],
                linewidth=1.6,
                label=f"{what}, {max_len.upper()}",
            )
    axes.plot(list(known), list(known.values()), "o", mfc="none", mec=INK, markersize=7, mew=1.3, label="theirs")
    axes.set_xlabel("agents per second")
    axes.set_ylabel("working set, GB")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", labelcolor=SOFT_INK)
    drawing.tight_layout()
    return finish(
        drawing,
        "working-set",
        "KV cache of the trajectories under way",
        "DS 660B 2P4D, DualPath, at rates within the SLO.",
        gaps=GAP_OR_SLO,
    )


def _table(results: Results, totals: dict[MaxLen, float]) -> Table:
    rows = []
    for max_len in SETS:
        for rate in RATES:
            cell = online(CLUSTER, max_len, ARM, rate)
            point = results.point(cell)
            rows.append(
                (
                    max_len.upper(),
                    shown(rate, "g"),
                    number(point.trajectory_s) if point else NONE,
                    number(formula_gb(results, cell, totals[max_len])),
                    number(counted_gb(results, cell)),
                )
            )
    return table("Working set", ("set|", "agents/s", "mean JCT, s", "formula, GB", "counted, GB"), rows, is_folded=True)
