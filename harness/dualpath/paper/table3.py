"""Table 3: the same job at 24 times the size, the same service at 22 times the size."""

from __future__ import annotations

from collections.abc import Iterable

from dualpath.paper.cells import CLUSTERS, Cell, online
from dualpath.paper.draw import panels
from dualpath.paper.numbers import Number, belief_of
from dualpath.paper.offline import CLUSTER_OF, jct_number, label
from dualpath.paper.part import Part
from dualpath.paper.runs import Results
from dualpath.report import missing
from dualpath.report.figure import Figure, finish
from dualpath.report.style import INK, arm_colour, rules
from dualpath.results.checks import Check, at_most

SMALL, LARGE = Cell("ds660b-2p4d", "48k", "dualpath", 2048), Cell("ds660b-48p96d", "48k", "dualpath", 49152)
ONLINE = {
    "ds660b-2p4d": online("ds660b-2p4d", "48k", "dualpath", 0.4),
    "ds660b-44p88d": online("ds660b-44p88d", "48k", "dualpath", 8.8),
}
CELLS = (SMALL, LARGE, *ONLINE.values())
METRICS = ("ttft_s", "ttst_s", "tpot_s")
SCALE, JCT, LATENCY = 0.03, 0.15, 0.20

BELIEFS: dict[str, str] = {}


def report(results: Results) -> Part:
    rows = list(results.theirs.table("table3_scale").iter_rows(named=True))
    numbers: list[Number] = []
    for row in rows:
        cluster = CLUSTER_OF["DS 660B", row["nodes"]]
        if row["mode"] == "offline":
            cell = SMALL if cluster == SMALL.cluster else LARGE
            numbers.append(jct_number(results, f"paper.table3.jct.{cluster}", cell, row["jct_s"], JCT, BELIEFS))
        else:
            numbers += _latencies(results, cluster, {metric: row[metric] for metric in METRICS})
    return Part(
        id="table3",
        title="Table 3: at scale",
        text="All runs are of the 48K set: the paper's offline bar of 2P4D is its Fig 7 bar of that set. A scheduler "
        "that scales leaves the JCT as it is when nodes and agents grow alike.",
        numbers=tuple(numbers),
        checks=(_scale_check(results),),
        figures=(_figure(numbers),),
    )


def _latencies(results: Results, cluster: str, known: dict[str, float]) -> Iterable[Number]:
    cell = ONLINE[cluster]
    point = results.point(cell)
    for metric, value in known.items():
        name = metric.removesuffix("_s")
        id = f"paper.table3.{name}.{cluster}"
        yield Number(
            id=id,
            what=f"{name.upper()}, {label(cell)}",
            ours=None if point is None else getattr(point, metric),
            theirs=value,
            tolerance=LATENCY,
            note=results.why_not(cell),
            rows=results.rows(cell),
            belief=belief_of(id, BELIEFS),
        )


def _scale_check(results: Results) -> Check:
    small_s, large_s = results.jct_s(SMALL), results.jct_s(LARGE)
    return at_most(
        "paper.table3.scale",
        "JCT of 49,152 agents on 48P96D against 2,048 on 2P4D: |ratio - 1|; theirs 1.1 %",
        abs(large_s / small_s - 1) if small_s is not None and large_s is not None else None,
        SCALE,
        note=results.why_not(SMALL, LARGE),
        rows=results.rows(SMALL, LARGE),
    )


def _figure(numbers: list[Number]) -> Figure:
    names = ("jct", "ttft", "ttst", "tpot")
    drawing, grid = panels(1, len(names), 1.3)
    for axes, name in zip(grid[0], names, strict=True):
        shown = [each for each in numbers if each.id.startswith(f"paper.table3.{name}.")]
        for row, each in enumerate(shown):
            if each.ours is None:
                missing.mark(axes, row)
            else:
                axes.barh(row, each.ours, height=0.6, color=arm_colour("dualpath"), alpha=0.85, linewidth=0)
            axes.plot(each.theirs, row, "o", mfc="none", mec=INK, markersize=7, mew=1.3)
        axes.set_yticks(range(len(shown)), [CLUSTERS[each.id.rpartition(".")[2]][1] for each in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        rules(axes)
        axes.set_title(f"{name.upper()}, s")
    drawing.tight_layout()
    return finish(
        drawing,
        "table3-scale",
        "Small and large",
        "JCT: 2,048 agents on 2P4D, 49,152 on 48P96D. Latencies: 0.4 agents/s on 2P4D, 8.8 on 44P88D. Rings: theirs.",
    )
