"""Section 4.2: between which ratios of prefill to decode nodes no link but the storage NICs is a bottleneck."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

from matplotlib.lines import Line2D

from dualpath.paper import hop_loads
from dualpath.paper.cells import CLUSTERS, Cell
from dualpath.paper.draw import legend, panels
from dualpath.paper.hop_loads import KINDS, Counted, Kind
from dualpath.paper.part import Part
from dualpath.paper.runs import Results
from dualpath.report import missing
from dualpath.report.figure import Figure, finish
from dualpath.report.style import INK, arm_colour, rules
from dualpath.report.table import Table, number, table
from dualpath.results.checks import Check, at_least, at_most
from dualpath.results.steady import steady_window

SHAPES = {"ds27b-1p2d": (1, 2), "ds27b-1p1d": (1, 1), "ds27b-2p1d": (2, 1)}
ENGINES = 8


def _cell(cluster: str, *constants: tuple[str, float]) -> Cell:
    return Cell(cluster, "64k", "dualpath", 1024, constants=constants)


# Outside the range: what is made scarce, and which link the formula then names first.
OUTSIDE: dict[Kind, Cell] = {
    "DE DRAM": _cell("ds27b-1p1d", ("dram_gb_per_s", 100.0)),
    "DE CNIC write": _cell("ds27b-2p1d", ("cnic_gb_per_s", 10.0)),
}
CELLS = (*map(_cell, SHAPES), *OUTSIDE.values())
LOAD, SATURATED = 0.10, 0.80
_EVERYTHING = "#e8833a"


def report(results: Results) -> Part:
    known = [row["resource"] for row in results.theirs.table("hop_formulas").iter_rows(named=True)]
    assert set(known) == set(KINDS), "each row of the paper's table has its formula here"
    counted = _counted(results)
    return Part(
        id="range42",
        title="Section 4.2: no bottleneck but storage",
        text="The paper derives the load of every link from Fig 4 and finds 1/7 <= P/D <= 7/2 for its nodes. Its "
        "formulas follow exactly from the hop table that the engine and the simulator charge, and a simulated run "
        "counts the same loads. What they leave out, new KV and what is persisted, is shown beside them. Outside the "
        "range the link that the formula names becomes the bottleneck: here on 1P1D with DRAM of 100 GB/s, where the "
        "upper end of the range is below 1, and on 2P1D with compute NICs of 10 GB/s, where a decode engine's would "
        "have to write 5/8 of what a storage NIC reads.",
        checks=(_formula_check(), _load_check(results, counted), *_outside_checks(results)),
        figures=(_load_figure(counted), _busy_figure(results)),
        tables=(_ranges(), _load_table(counted)),
    )


def _formula_check() -> Check:
    """Formulas of section 4.2 against the hop table, exactly and for each single link."""
    unlike = 0
    shapes = list(product((1, 2, 3, 48), (1, 2, 4), (1, 2, 8)))
    for p, d, g in shapes:
        found = hop_loads.of_table(p, d, g)
        unlike += sum(found[kind] != {value} for kind, value in hop_loads.formulas(p, d, g).items())
    what = f"loads that differ from the hop table's, of {len(shapes)} shapes x {len(KINDS)} kinds of link"
    return at_most("paper.range42.formulas", what, unlike, 0, unit="loads", note="exact, as fractions")


def _counted(results: Results) -> dict[str, Counted]:
    """Of every shape that was run."""
    runs = {cluster: results.run(_cell(cluster)) for cluster in SHAPES}
    return {cluster: hop_loads.of_run(run) for cluster, run in runs.items() if run is not None}


def _load_check(results: Results, counted: dict[str, Counted]) -> Check:
    """Against the formulas with what each side's storage NICs did read; the paper's premise is equal reads."""
    cells = [_cell(cluster) for cluster in SHAPES]
    apart = [
        abs(found.hits[kind] / float(value) - 1)
        for cluster, found in counted.items()
        for kind, value in hop_loads.formulas(*SHAPES[cluster], ENGINES, found.prefill, found.decode).items()
    ]
    return at_most(
        "paper.range42.loads",
        "load that hit KV puts on a kind of link: |simulated / formula - 1|, largest of 3 shapes x 6 kinds",
        max(apart) if len(counted) == len(SHAPES) else None,
        LOAD,
        note=results.why_not(*cells) or "hit KV that is loaded again for a prompt's next chunk is not in the formula",
        rows=results.rows(*cells),
    )


def _load_table(counted: dict[str, Counted]) -> Table:
    rows = []
    for cluster, (p, d) in SHAPES.items():
        found = counted.get(cluster)
        shares = (1.0, 1.0) if found is None else (found.prefill, found.decode)
        adjusted = hop_loads.formulas(p, d, ENGINES, *shares)
        for kind, value in hop_loads.formulas(p, d, ENGINES).items():
            values = (
                float(value),
                None if found is None else float(adjusted[kind]),
                None if found is None else found.hits[kind],
                None if found is None else found.everything[kind],
            )
            rows.append((CLUSTERS[cluster][1], kind, *map(number, values)))
    columns = ("nodes|", "link|", "formula", "with the run's reads", "simulated, hit KV", "simulated, all KV")
    note = "In units of what a node's storage NIC reads, mean over nodes. The formula's premise: all nodes read alike."
    return table("Loads of links", columns, rows, note, is_folded=True)


def _busy(results: Results, cell: Cell) -> dict[Kind, float] | None:
    run = results.run(cell)
    window = None if run is None else steady_window(run)
    return None if run is None or window is None else hop_loads.busy(run, window)


def _outside_checks(results: Results) -> Iterable[Check]:
    for kind, cell in OUTSIDE.items():
        as_in_paper = _cell(cell.cluster)
        found, inside = _busy(results, cell), _busy(results, as_in_paper)
        note = results.why_not(cell, as_in_paper)
        if found is not None and inside is not None:
            others = max(busy for each, busy in found.items() if each != kind)
            note = (
                f"all other links at most {others:.0%}; the decode side's storage NICs {found['DE SNIC read']:.0%}, "
                f"as in the paper {inside['DE SNIC read']:.0%}"
            )
        yield at_least(
            f"paper.range42.outside.{kind.replace(' ', '-').lower()}",
            f"{CLUSTERS[cell.cluster][1]}, {_given(cell)}: share of the steady window in which {kind} is busy",
            None if found is None else found[kind],
            SATURATED,
            note=note,
            rows=results.rows(cell, as_in_paper),
        )


def _given(cell: Cell) -> str:
    return ", ".join(f"{name} = {value:g}" for name, value in cell.constants) or "as in the paper"


def _load_figure(runs: dict[str, Counted]) -> Figure:
    drawing, grid = panels(1, len(SHAPES), 2.2)
    for axes, (cluster, (p, d)) in zip(grid[0], SHAPES.items(), strict=True):
        counted = runs.get(cluster)
        for row, (kind, value) in enumerate(hop_loads.formulas(p, d, ENGINES).items()):
            if counted is not None:
                shares = hop_loads.formulas(p, d, ENGINES, counted.prefill, counted.decode)
                axes.barh(row, counted.hits[kind], height=0.66, color=arm_colour("dualpath"), alpha=0.8, linewidth=0)
                axes.plot(counted.everything[kind], row, "|", color=_EVERYTHING, markersize=11, mew=2)
                axes.plot(float(shares[kind]), row, "x", color=INK, markersize=5, mew=1.2)
            else:
                missing.mark(axes, row)
            axes.plot(float(value), row, "o", mfc="none", mec=INK, markersize=6.5, mew=1.2)
        axes.set_yticks(range(len(KINDS)), KINDS)
        axes.set_xscale("log")
        axes.set_xlim(0.08, 12)
        axes.set_xticks([0.1, 0.2, 0.5, 1, 2, 5, 10], ["0.1", "0.2", "0.5", "1", "2", "5", "10"])
        axes.minorticks_off()
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        rules(axes)
        axes.set_title(CLUSTERS[cluster][1])
        axes.set_xlabel("load / storage NIC's reads")
    for axes in grid[0][1:]:
        axes.set_yticklabels([])
    drawing.tight_layout()
    handles = [
        Line2D([], [], color=arm_colour("dualpath"), linewidth=6, label="simulated, hit KV"),
        Line2D([], [], color=_EVERYTHING, marker="|", ms=11, mew=2, ls="none", label="with new and persisted KV"),
        Line2D([], [], color=INK, marker="o", mfc="none", ls="none", ms=6.5, label="formula, equal reads"),
        Line2D([], [], color=INK, marker="x", ls="none", ms=5, label="formula, the run's reads"),
    ]
    legend(drawing, (), handles, rings=False)
    return finish(
        drawing,
        "range42-loads",
        "Load of every kind of link",
        "In units of what a node's storage NIC reads; logarithmic. DS 27B, 64K set, 1,024 agents, DualPath. A compute "
        "NIC has as much bandwidth as a storage NIC, so 1 is its limit; DRAM has about ten times as much. The paper's "
        "premise is that all nodes read alike (rings); crosses take what each side did read.",
    )


def _busy_figure(results: Results) -> Figure:
    shown = {"1P1D, inside": _cell("ds27b-1p1d")}
    shown.update({f"{CLUSTERS[cell.cluster][1]}, {_given(cell)}": cell for cell in OUTSIDE.values()})
    kinds = ("PE SNIC read", "DE SNIC read", *KINDS)
    drawing, grid = panels(1, len(shown), 2.3)
    for axes, (title, cell) in zip(grid[0], shown.items(), strict=True):
        found = _busy(results, cell)
        named = next((kind for kind, other in OUTSIDE.items() if other == cell), None)
        for row, kind in enumerate(kinds):
            colour = "#e0605a" if kind == named else arm_colour("dualpath")
            if found is None:
                missing.mark(axes, row)
            else:
                axes.barh(row, 100 * found[kind], height=0.66, color=colour, alpha=0.85, linewidth=0)
        axes.set_yticks(range(len(kinds)), kinds)
        axes.set_xlim(0, 100)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        rules(axes)
        axes.set_title(title, size=8)
        axes.set_xlabel("busy, %")
    for axes in grid[0][1:]:
        axes.set_yticklabels([])
    drawing.tight_layout()
    return finish(
        drawing,
        "range42-outside",
        "Inside and outside the range",
        "DS 27B, 64K set, 1,024 agents, DualPath; share of the steady window in which links of a kind were "
        "serving. Red: the link that the formula names as the bottleneck.",
    )


def _ranges() -> Table:
    rows = []
    for g, s, m_gb, bs_gb in ((8, 1, 500, 50), (8, 1, 300, 50), (8, 1, 100, 50), (8, 2, 500, 100), (4, 1, 500, 50)):
        upper = {"DE CNIC read": (g - 2 * s) / s, "DE CNIC write": (g - s) / (2 * s), "DE DRAM": (m_gb / bs_gb - 3) / 2}
        first = min(upper, key=lambda kind: upper[kind])
        rows.append((g, s, m_gb, number(s / (g - s)), number(upper[first]), first))
    columns = ("engines, g", "s", "DRAM, GB/s", "P/D at least", "P/D at most", "what binds|")
    note = "s: storage NIC over compute NIC bandwidth, compute NICs of 50 GB/s. A range whose ends cross is empty."
    return table("The range for other nodes", columns, rows, note)
