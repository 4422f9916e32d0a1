"""Fig 8: DS 27B at three ratios of prefill to decode nodes; equal storage NICs, equal time."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from dualpath.paper.cells import CLUSTERS, MAX_LENS, Cell, MaxLen
from dualpath.paper.draw import legend, panels
from dualpath.paper.numbers import percentile
from dualpath.paper.offline import CLUSTER_OF, jct_number, label, ratio_number, speed_up
from dualpath.paper.part import Part
from dualpath.paper.runs import Results
from dualpath.report import missing
from dualpath.report.figure import Figure, finish
from dualpath.report.style import GRID, INK, arm_colour, rules
from dualpath.report.table import Table, number, per_cent, table
from dualpath.results.checks import Check, at_most

SHAPES = ("ds27b-1p1d", "ds27b-1p2d", "ds27b-2p1d")
AGENTS = (512, 1024, 2048)
ARMS = ("basic", "layerwise", "dualpath", "split")  # layerwise and split: beyond the paper
POINTS: list[tuple[MaxLen, int]] = [(max_len, count) for max_len in MAX_LENS for count in AGENTS]
CELLS = tuple(Cell(cluster, max_len, arm, count) for max_len, count in POINTS for cluster in SHAPES for arm in ARMS)
# Storage NICs that may be read with -> the two systems that should tie.
TIES = {
    1: (("ds27b-1p1d", "basic"), ("ds27b-1p2d", "basic")),
    2: (("ds27b-1p1d", "dualpath"), ("ds27b-2p1d", "basic")),
    3: (("ds27b-2p1d", "dualpath"), ("ds27b-1p2d", "dualpath")),
}
SINGLE, TIE = 0.15, 0.05

BELIEFS: dict[str, str] = {}


def report(results: Results) -> Part:
    bars = _theirs(results)
    singles = [
        jct_number(results, f"paper.fig8.{cell.name.replace('/', '.')}", cell, value, SINGLE, BELIEFS)
        for cell, value in bars.items()
    ]
    ratios = [
        ratio_number(
            results,
            f"paper.fig8.ratio.{cluster}.{max_len}.{count}",
            slower,
            faster,
            bars[slower] / bars[faster],
            SINGLE,
            BELIEFS,
        )
        for cluster in SHAPES
        for max_len, count in POINTS
        for slower, faster in [(Cell(cluster, max_len, "basic", count), Cell(cluster, max_len, "dualpath", count))]
    ]
    return Part(
        id="fig8",
        title="Fig 8: prefill to decode ratio, and the ties",
        text="What limits loading is how many storage NICs a system may read with, not on which side they are: Basic "
        "ties between 1P1D and 1P2D (one NIC), DualPath on 1P1D with Basic on 2P1D (two), DualPath between 2P1D and "
        "1P2D (three). This is the test of the idea that needs no cost of compute to be known.",
        numbers=(*singles, *ratios),
        checks=tuple(_tie_checks(results, bars)),
        figures=(_ties(results, bars),),
        tables=(_tie_table(results, bars), _speed_ups(results)),
    )


def _theirs(results: Results) -> dict[Cell, float]:
    rows = results.theirs.table("fig8_pd_ratio_jct").iter_rows(named=True)
    return {
        Cell(CLUSTER_OF[row["model"], row["nodes"]], row["max_len"].lower(), row["system"], row["agents"]): row["jct_s"]
        for row in rows
    }


def _pair(snics: int, max_len: MaxLen, count: int) -> tuple[Cell, Cell]:
    (cluster, arm), (other, other_arm) = TIES[snics]
    return Cell(cluster, max_len, arm, count), Cell(other, max_len, other_arm, count)


def _apart(ratio: float | None) -> float | None:
    """Larger / smaller - 1."""
    return None if ratio is None else max(ratio, 1 / ratio) - 1


def _tie_checks(results: Results, bars: dict[Cell, float]) -> Iterable[Check]:
    """One per pair of systems: how far apart they are in the median of the nine points."""
    for snics, systems in TIES.items():
        pairs = [_pair(snics, max_len, count) for max_len, count in POINTS]
        found = [_apart(speed_up(results, *pair)) for pair in pairs]
        known = [found_one for found_one in found if found_one is not None]
        theirs = [_apart(bars[one] / bars[other]) or 0.0 for one, other in pairs]
        names = " and ".join(f"{arm} {CLUSTERS[cluster][1]}" for cluster, arm in systems)
        note = f"{len(known)} of {len(pairs)} points; theirs {percentile(theirs, 0.5):.1%}, largest {max(theirs):.1%}"
        if known:
            note += f"; our largest {max(known):.1%}"
        yield at_most(
            f"paper.fig8.tie.{snics}-snic",
            f"{names}: JCT, larger / smaller - 1, median over sets and agents",
            percentile(known, 0.5) if len(known) == len(pairs) else None,
            TIE,
            note="; ".join(filter(None, (note, results.why_not(*(cell for pair in pairs for cell in pair))))),
            rows=results.rows(*(cell for pair in pairs for cell in pair)),
        )


def _ties(results: Results, bars: dict[Cell, float]) -> Figure:
    drawing, grid = panels(len(MAX_LENS), len(AGENTS), 1.75)
    for row, max_len in enumerate(MAX_LENS):
        for column, count in enumerate(AGENTS):
            axes = grid[row][column]
            _tie_panel(axes, results, bars, max_len, count)
            axes.set_title(f"{max_len.upper()} · {count:,} agents")
            if column:
                axes.set_yticklabels([])
            if row == len(MAX_LENS) - 1:
                axes.set_xlabel("JCT, s")
    drawing.tight_layout(w_pad=0.6, h_pad=0.6)
    ring = Line2D([], [], color=INK, marker="o", markersize=6, mfc="none", linestyle="none", label="theirs")
    legend(drawing, ("basic", "dualpath"), [ring], rings=False)
    return finish(
        drawing,
        "fig8-ties",
        "Equal storage NICs, equal time",
        "Bars of a pair may read with the same number of storage NICs (1, 2, 3 from the top) and should be of equal "
        "length, whatever the shape of the cluster; rings are the paper's bars.",
    )


def _tie_panel(axes: Axes, results: Results, bars: dict[Cell, float], max_len: MaxLen, count: int) -> None:
    place, places, names = 0.0, [], []
    for snics, systems in TIES.items():
        for (cluster, arm), cell in zip(systems, _pair(snics, max_len, count), strict=True):
            found = results.jct_s(cell)
            if found is None:
                missing.mark(axes, place)
            else:
                axes.barh(place, found, height=0.8, color=arm_colour(arm), alpha=0.8, linewidth=0)
            axes.plot(bars[cell], place, "o", mfc="none", mec=INK, markersize=5.5, mew=1.1)
            places.append(place)
            names.append(f"{'DualPath' if arm == 'dualpath' else 'Basic'} {CLUSTERS[cluster][1]}")
            place += 1
        if snics < len(TIES):
            axes.axhline(place - 0.2, color=GRID, linewidth=0.8)
        place += 0.6
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    rules(axes)
    axes.spines["left"].set_visible(False)


def _tie_table(results: Results, bars: dict[Cell, float]) -> Table:
    rows = []
    for snics in TIES:
        for max_len, count in POINTS:
            one, other = _pair(snics, max_len, count)
            rows.append(
                (
                    snics,
                    f"{max_len.upper()}, {count:,} agents",
                    f"{one.arm} {CLUSTERS[one.cluster][1]}",
                    number(results.jct_s(one)),
                    f"{other.arm} {CLUSTERS[other.cluster][1]}",
                    number(results.jct_s(other)),
                    per_cent(_apart(speed_up(results, one, other))),
                    per_cent(_apart(bars[one] / bars[other])),
                )
            )
    columns = ("SNICs", "point|", "one|", "JCT, s", "other|", "JCT, s", "apart, ours", "apart, theirs")
    note = "Apart: larger / smaller - 1. The paper's own bars tie no better than its column says."
    return table("Ties, point by point", columns, rows, note, is_folded=True)


def _speed_ups(results: Results) -> Table:
    rows = []
    for cluster in SHAPES:
        for max_len, count in POINTS:
            cells = {arm: Cell(cluster, max_len, arm, count) for arm in ARMS}
            pairs = (("basic", "dualpath"), ("basic", "layerwise"), ("layerwise", "dualpath"), ("layerwise", "split"))
            ratios = [number(speed_up(results, cells[slower], cells[faster])) for slower, faster in pairs]
            rows.append((label(cells["basic"]).rpartition(",")[0], *ratios))
    columns = ("cell|", "basic / dualpath", "basic / layerwise", "layerwise / dualpath", "layerwise / split")
    return table("Speed-ups, also against layerwise", columns, rows, "Ratios of JCT, ours.", is_folded=True)
