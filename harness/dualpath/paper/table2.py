"""Table 2: what the traces look like; the shipped, synthesized sets beside the paper's columns."""

from __future__ import annotations

from matplotlib.axes import Axes

from dualpath.paper.cells import MAX_LENS, Cell, MaxLen
from dualpath.paper.draw import panels
from dualpath.paper.numbers import Number, belief_of
from dualpath.paper.part import Part
from dualpath.paper.runs import Results
from dualpath.report.figure import Figure, finish
from dualpath.report.style import INK, rules
from dualpath.report.table import Table, number, per_cent, table
from dualpath.trace.reader import TraceFile
from dualpath.trace.stats import TraceStats, trace_stats

CELLS: tuple[Cell, ...] = ()
COLUMNS = {"turns": "turns", "append_tokens": "append", "generate_tokens": "generate"} | {
    "total_tokens": "total",
    "context_tokens": "context",
}
SINGLE = 0.02
_COLOUR = "#3f7fe0"

BELIEFS: dict[str, str] = {}


def report(results: Results) -> Part:
    stats = {max_len: _stats(results, max_len) for max_len in MAX_LENS}
    known = {row["max_len"].lower(): row for row in results.theirs.table("table2_traces").iter_rows(named=True)}
    numbers = []
    for max_len in MAX_LENS:
        for column, name in COLUMNS.items():
            id = f"paper.table2.{max_len}.{name}"
            numbers.append(
                Number(
                    id=id,
                    what=f"mean {column.replace('_', ' ')} of the {max_len.upper()} set",
                    ours=getattr(stats[max_len].table2, name),
                    theirs=known[max_len][column],
                    tolerance=SINGLE,
                    unit="" if column == "turns" else "tokens",
                    is_fit=True,
                    belief=belief_of(id, BELIEFS),
                )
            )
    return Part(
        id="table2",
        title="Table 2: traces",
        text="The paper's traces were not released. The shipped sets are synthesized: one population of trajectories, "
        "cut at each length, whose means over trajectories of the means over turns meet the table. The columns are "
        "therefore fits; what they leave open, how unequal trajectories are, is in the table below.",
        numbers=tuple(numbers),
        figures=(_figure(stats, known),),
        tables=(_spreads(stats),),
    )


def _stats(results: Results, max_len: MaxLen) -> TraceStats:
    with TraceFile.open(results.root / "traces" / f"agents-{max_len}.parquet") as trace:
        return trace_stats(trace)


def _figure(stats: dict[MaxLen, TraceStats], known: dict[str, dict[str, float]]) -> Figure:
    drawing, grid = panels(1, len(COLUMNS), 1.7)
    for axes, (column, name) in zip(grid[0], COLUMNS.items(), strict=True):
        _bars(axes, [(getattr(stats[m].table2, name), known[m][column]) for m in MAX_LENS])
        axes.set_title(column.removesuffix("_tokens"))
    drawing.tight_layout()
    return finish(
        drawing,
        "table2-traces",
        "Means of the shipped traces",
        "Bars: the shipped sets of 500 trajectories each. Rings: the paper's Table 2. Tokens, except for turns.",
    )


def _bars(axes: Axes, values: list[tuple[float, float]]) -> None:
    for place, (ours, theirs) in enumerate(values):
        axes.bar(place, ours, width=0.65, color=_COLOUR, alpha=0.8, linewidth=0)
        axes.plot(place, theirs, "o", mfc="none", mec=INK, markersize=7, mew=1.3)
    axes.set_xticks(range(len(values)), [max_len.upper() for max_len in MAX_LENS])
    axes.grid(visible=False, axis="x")
    rules(axes, "y")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}")


def _spreads(stats: dict[MaxLen, TraceStats]) -> Table:
    rows = []
    for max_len, found in stats.items():
        for name, spread in found.spreads.items():
            if name == "gap_s":
                continue
            values = (spread.mean, spread.p10, spread.p50, spread.p90, spread.p99, spread.max)
            rows.append(
                (max_len.upper(), name.replace("_", " "), *map(number, values), per_cent(found.hits_planned.rate))
            )
    columns = ("set|", "quantity|", "mean", "p10", "p50", "p90", "p99", "max", "hit rate of the set")
    note = "Over turns (append, generate, context) or trajectories (turns, final tokens); hits: full 64-token blocks."
    return table("How unequal turns and trajectories are", columns, rows, note, is_folded=True)
