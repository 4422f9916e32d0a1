"""Fig 13: how evenly the storage NICs of three nodes are read with, with and without the scheduler."""

from __future__ import annotations

import polars as pl
from matplotlib.lines import Line2D

from dualpath.paper.cells import ARM_OF, CLUSTERS, Cell
from dualpath.paper.draw import LABELS, legend, panels
from dualpath.paper.numbers import Number, belief_of
from dualpath.paper.part import Part
from dualpath.paper.runs import Results
from dualpath.report.figure import Figure, finish
from dualpath.report.figures_time import NO_LOAD, with_gaps
from dualpath.report.style import INK, arm_colour
from dualpath.report.table import Table, number, shown, table
from dualpath.results.links import balance, steady_balance

ARMS = ("dualpath-rr", "dualpath")
JUDGED = "ds27b-1p2d"
OTHERS = ("ds27b-2p1d", "qwen32b-1p2d", "ds660b-2p4d")
UNTIL_S = 1500
WINDOW_S = 5  # "a short window": not stated, named choice
WINDOWS_S = (1, 2, 5, 10, 20, 50)  # how much that choice matters
SINGLE = 0.10
_NS = 1_000_000_000

BELIEFS: dict[str, str] = {}


def _cell(arm: str, cluster: str = JUDGED) -> Cell:
    return Cell(cluster, "48k", arm, 1024)


CELLS = tuple(_cell(arm, cluster) for cluster in (JUDGED, *OTHERS) for arm in ARMS)


def report(results: Results) -> Part:
    rows = list(results.theirs.table("fig13_snic_balance").iter_rows(named=True))
    numbers = []
    for row in rows:
        cell = _cell(ARM_OF[row["system"]])
        id = f"paper.fig13.{cell.arm}"
        numbers.append(
            Number(
                id=id,
                what=f"SNIC reads, max / avg of three nodes, mean of {WINDOW_S} s windows to {UNTIL_S} s, {cell.arm}",
                ours=_mean(results, cell, WINDOW_S),
                theirs=row["max_over_avg_mean"],
                tolerance=SINGLE,
                unit="1",
                note=results.why_not(cell),
                rows=results.rows(cell),
                belief=belief_of(id, BELIEFS),
            )
        )
    return Part(
        id="fig13",
        title="Fig 13: balance of the storage NICs",
        text="Bytes that the busiest storage NIC reads in a short window over the mean of the three. 1 is perfect. The "
        "model and the window are not named in the paper: three machines, 48K and 1,024 trajectories (by the name of "
        "its file) fit DS 27B on 1P2D, which is what runs here; windows are 5 s. Alternating sides gives 1.5 on three "
        "nodes by construction: the one prefill node carries half of all reads.",
        numbers=tuple(numbers),
        figures=(_figure(results, {ARM_OF[row["system"]]: row for row in rows}),),
        tables=(_by_cluster(results), _by_window(results)),
    )


def _over_time(results: Results, cell: Cell, window_s: float) -> pl.DataFrame | None:
    run = results.run(cell)
    if run is None:
        return None
    # Windows of whole buckets: a run keeps its bytes in buckets of at least a tenth of a second.
    bucket_ns = run.manifest.bucket_ns
    window_ns = max(1, round(window_s * _NS / bucket_ns)) * bucket_ns
    found = balance(run, window_ns=window_ns).filter(pl.col("start_ns") < UNTIL_S * _NS)
    return found if found.is_empty() else with_gaps(found, window_ns)


def _mean(results: Results, cell: Cell, window_s: float) -> float | None:
    found = _over_time(results, cell, window_s)
    return None if found is None or found.is_empty() else float(found.select(pl.col("balance").mean()).item())


def _figure(results: Results, known: dict[str, dict[str, float]]) -> Figure:
    drawing, grid = panels(1, 1, 2.6)
    axes = grid[0][0]
    for arm in ARMS:
        found = _over_time(results, _cell(arm), WINDOW_S)
        row = known[arm]
        axes.axhspan(row["low"], row["high"], color=arm_colour(arm), alpha=0.10, linewidth=0)
        axes.axhline(row["max_over_avg_mean"], color=arm_colour(arm), linewidth=1.2, linestyle="--")
        if found is not None:
            axes.plot(found["start_ns"] / _NS, found["balance"], color=arm_colour(arm), linewidth=0.9, alpha=0.9)
        axes.annotate(LABELS[arm], (UNTIL_S, row["max_over_avg_mean"]), ha="right", va="bottom", color=arm_colour(arm))
    axes.set_xlim(0, UNTIL_S)
    axes.set_ylim(0.95, 2.2)
    axes.set_xlabel("time, s")
    axes.set_ylabel("max / avg")
    drawing.tight_layout()
    dashed = Line2D([], [], color=INK, linestyle="--", linewidth=1.2, label="theirs, mean (band: range)")
    solid = Line2D([], [], color=INK, linewidth=1, label="ours")
    legend(drawing, (), [solid, dashed], rings=False)
    return finish(
        drawing,
        "fig13-snics",
        "The busiest storage NIC against the mean of three",
        f"Windows of {WINDOW_S} s; DS 27B 1P2D, 48K set, 1,024 agents. A run that ends earlier has no windows after "
        "its end, and few reads before it.",
        gaps=NO_LOAD,
    )


def _by_window(results: Results) -> Table:
    rows = [
        (shown(window_s, "g"), *(number(_mean(results, _cell(arm), window_s)) for arm in ARMS))
        for window_s in WINDOWS_S
    ]
    note = "Windows are whole buckets of the run; one shorter than a bucket is one bucket."
    return table("By window length", ("window, s", *ARMS), rows, note)


def _by_cluster(results: Results) -> Table:
    """What the unnamed model could have been, and what start and tail of a run add."""
    rows = []
    for cluster in (JUDGED, *OTHERS):
        row = [" ".join(CLUSTERS[cluster])]
        for arm in ARMS:
            cell = _cell(arm, cluster)
            run = results.run(cell)
            row.append(number(_mean(results, cell, WINDOW_S)))
            row.append(number(None if run is None else steady_balance(run, window_ns=WINDOW_S * _NS)))
        rows.append(row)
    columns = ["cluster|"]
    for arm in ARMS:
        columns += [f"{arm}, to {UNTIL_S} s", "steady window"]
    note = (
        f"48K set, 1,024 agents, windows of {WINDOW_S} s. Steady window: all have had a hit, half are still under way."
    )
    return table("By cluster", columns, rows, note)
