"""Fig 7: offline job completion time by model, maximum length and number of agents."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.lines import Line2D

from dualpath.paper import closed_form
from dualpath.paper.cells import CLUSTERS, MAX_LENS, Cell, MaxLen
from dualpath.paper.draw import GAP, error_strips, legend, log_counts, log_seconds, ours, panels, theirs
from dualpath.paper.numbers import Number, absolute_errors, percentile, spread_check
from dualpath.paper.offline import CLUSTER_OF, jct_number, ratio_number, speed_up
from dualpath.paper.part import Part
from dualpath.paper.runs import Results
from dualpath.report.figure import Figure, finish
from dualpath.report.style import INK, SOFT_INK, arm_colour
from dualpath.report.table import Table, number, per_cent, table
from dualpath.results.checks import Check

AGENTS: dict[tuple[str, MaxLen], tuple[int, ...]] = {
    **{("ds660b-2p4d", max_len): (512, 1024, 2048, 4096) for max_len in MAX_LENS},
    **{("ds27b-1p1d", max_len): (512, 1024, 2048, 4096) for max_len in MAX_LENS},
    ("qwen32b-1p2d", "32k"): (128, 256, 512),
    ("qwen32b-1p2d", "48k"): (128, 256, 512),
    ("qwen32b-1p2d", "64k"): (32, 64, 128),
}
POINTS = [(cluster, max_len, count) for (cluster, max_len), counts in AGENTS.items() for count in counts]
ARMS = ("basic", "layerwise", "dualpath", "split", "oracle")
BEYOND = ("layerwise", "split")  # not in the paper's figure
CELLS = tuple(Cell(cluster, max_len, arm, count) for cluster, max_len, count in POINTS for arm in ARMS)

SINGLE, MEDIAN, P90, RATIO_MEDIAN = 0.15, 0.07, 0.15, 0.05
_SYSTEMS = ("oracle", "dualpath", "basic")
_CLUSTERS = tuple(dict.fromkeys(cluster for cluster, _ in AGENTS))

BELIEFS: dict[str, str] = {
    "paper.fig7.ds27b-1p1d.32k": "Basic, which one storage NIC binds here, is as short as DualPath: the contexts of an "
    "agent's turns must add up to more in the paper's 32K set than Table 2's means give with our population",
    "paper.fig7.ds27b-1p1d": "DualPath keeps both storage NICs 95 % busy here; the paper's stay at 25-29 "
    "GB/s each, which a little less DRAM for buffers, or less even reads, would "
    "give",
    "paper.fig7.qwen32b-1p2d": "the paper blames transfers between engines for slower decode steps in small "
    "models; here a transfer costs its links and no decode step",
}


def report(results: Results) -> Part:
    bars = _theirs(results)
    singles = [
        jct_number(results, f"paper.fig7.{cell.name.replace('/', '.')}", cell, bars[cell], SINGLE, BELIEFS)
        for cell in CELLS
        if cell in bars
    ]
    ratios = [
        ratio_number(
            results,
            f"paper.fig7.ratio.{cluster}.{max_len}.{count}",
            slower,
            faster,
            bars[slower] / bars[faster],
            SINGLE,
            BELIEFS,
        )
        for cluster, max_len, count in POINTS
        for slower, faster in [(Cell(cluster, max_len, "basic", count), Cell(cluster, max_len, "dualpath", count))]
    ]
    return Part(
        id="fig7",
        title="Fig 7: offline completion time",
        text="All agents start together; JCT is when the last turn ends. SGL(MC) is not simulated: its rings are the "
        "paper's alone. `layerwise` and `split` are not in the paper's figure: the first is the prior art that a "
        "speed-up over Basic hides, the second the paper's future work. " + closed_form.WHY_A_SUM_FITS,
        numbers=(*singles, *ratios),
        checks=tuple(_checks(singles, ratios)),
        figures=(_jcts(results, bars), _errors(singles, bars, results)),
        tables=(_accuracy(singles, bars, results), _speed_ups(results, bars)),
    )


def _theirs(results: Results) -> dict[Cell, float]:
    rows = results.theirs.table("fig7_offline_jct").iter_rows(named=True)
    return {
        Cell(CLUSTER_OF[row["model"], row["nodes"]], row["max_len"].lower(), row["system"], row["agents"]): row["jct_s"]
        for row in rows
        if row["jct_s"] is not None
    }


def _checks(singles: list[Number], ratios: list[Number]) -> Iterable[Check]:
    for arm in ("basic", "dualpath"):
        predicted = [each for each in singles if each.id.endswith(f".{arm}") and not each.is_fit]
        what = f"error of the JCT of {arm} over the bars that were not fitted"
        yield spread_check(f"paper.fig7.{arm}_median", f"median {what}", predicted, 0.5, MEDIAN)
        yield spread_check(f"paper.fig7.{arm}_p90", f"90th percentile of the {what}", predicted, 0.9, P90)
    predicted = [each for each in ratios if not each.is_fit]
    what = "median error of the ratio basic / dualpath over the bars that were not fitted"
    yield spread_check("paper.fig7.ratio_median", what, predicted, 0.5, RATIO_MEDIAN)


def _closed_form_s(bars: dict[Cell, float], cell: Cell, results: Results) -> float:
    model, nodes = CLUSTERS[cell.cluster]
    oracle = bars[Cell(cell.cluster, cell.max_len, "oracle", cell.agents)]
    row = results.theirs.table("table2_traces").row(MAX_LENS.index(cell.max_len), named=True)
    return oracle + closed_form.read_s(model, nodes, cell.arm, cell.agents, row["turns"], row["context_tokens"])


def _jcts(results: Results, bars: dict[Cell, float]) -> Figure:
    drawing, grid = panels(len(_CLUSTERS), len(MAX_LENS), 2.1)
    for row, cluster in enumerate(_CLUSTERS):
        for column, max_len in enumerate(MAX_LENS):
            axes, counts = grid[row][column], AGENTS[cluster, max_len]
            for arm in ("basic", "dualpath"):
                sums = [_closed_form_s(bars, Cell(cluster, max_len, arm, count), results) for count in counts]
                axes.plot(counts, sums, color=arm_colour(arm), linestyle=(0, (1.5, 1.5)), linewidth=1.1, zorder=1)
            for arm in ("sgl_mc", *ARMS):
                cells = [Cell(cluster, max_len, arm, count) for count in counts]
                if arm != "sgl_mc":
                    ours(axes, counts, [results.jct_s(cell) for cell in cells], arm, is_dashed=arm in BEYOND)
                shown = [cell for cell in cells if cell in bars]
                theirs(axes, [cell.agents for cell in shown], [bars[cell] for cell in shown], arm)
            log_counts(axes, counts)
            log_seconds(axes)
            axes.set_title(f"{CLUSTERS[cluster][0]} · {max_len.upper()}")
            if column == 0:
                axes.set_ylabel("JCT, s")
            if row == len(_CLUSTERS) - 1:
                axes.set_xlabel("agents")
    drawing.tight_layout(w_pad=0.8, h_pad=0.8)
    dotted = Line2D([], [], color=INK, linestyle=(0, (1.5, 1.5)), linewidth=1.1, label="closed form")
    legend(drawing, (*ARMS, "sgl_mc"), [dotted])
    return finish(
        drawing,
        "fig7-jct",
        "Completion time of a batch of agents",
        "Both axes are logarithmic: equal distances are equal ratios. A line through its rings is a reproduced number. "
        "Dashed: systems that the paper's figure does not have. "
        "Dotted: the closed form, the paper's Oracle bar plus all hit bytes at 50 GB/s per storage NIC that the "
        "system may read with.",
        gaps=GAP,
    )


def _groups(singles: list[Number]) -> dict[str, list[Number]]:
    """By model and system, in the order of the figure."""
    return {
        f"{CLUSTERS[cluster][0]} · {arm}": [
            each for each in singles if f".{cluster}." in each.id and each.id.endswith(f".{arm}")
        ]
        for cluster in _CLUSTERS
        for arm in ("basic", "dualpath", "oracle")
    }


def _errors(singles: list[Number], bars: dict[Cell, float], results: Results) -> Figure:
    groups = _groups(singles)
    drawing, grid = panels(1, 2, 2.7)
    colours = {group: arm_colour(group.split(" · ")[1]) for group in groups}
    error_strips(grid[0][0], groups, colours, SINGLE)
    grid[0][0].set_title("simulator")
    formed = {
        group: [_formed(each, bars, results) for each in numbers] if not group.endswith("oracle") else []
        for group, numbers in groups.items()
    }
    error_strips(grid[0][1], formed, colours, SINGLE)
    grid[0][1].set_yticklabels([])
    grid[0][1].set_title("closed form (Oracle is its input)")
    widest = max([30.0, *(abs(axes_limit) for axes in grid[0] for axes_limit in axes.get_xlim())])
    for axes in grid[0]:
        axes.set_xlim(-widest, widest)
    drawing.tight_layout()
    hollow = Line2D([], [], color=SOFT_INK, marker="o", mfc="none", linestyle="none", markersize=4, label="fit")
    solid = Line2D([], [], color=SOFT_INK, marker="o", linestyle="none", markersize=4, label="prediction")
    legend(drawing, (), [solid, hollow], rings=False)
    return finish(
        drawing,
        "fig7-errors",
        "How far each bar is off",
        f"One dot per bar, right of zero where ours takes longer. The band is {SINGLE:.0%} wide to each side. Hollow: "
        "the bars that the constants were chosen on.",
    )


def _formed(single: Number, bars: dict[Cell, float], results: Results) -> Number:
    """The closed form's value in place of the simulator's."""
    cell = next(cell for cell in CELLS if f"paper.fig7.{cell.name.replace('/', '.')}" == single.id)
    value = _closed_form_s(bars, cell, results)
    return Number(single.id, single.what, value, single.theirs, single.tolerance)


def _accuracy(singles: list[Number], bars: dict[Cell, float], results: Results) -> Table:
    rows = []
    for group, numbers in _groups(singles).items():
        predicted = [each for each in numbers if not each.is_fit] or numbers
        errors = absolute_errors(predicted)
        formed = [] if group.endswith("oracle") else absolute_errors(_formed(e, bars, results) for e in predicted)
        rows.append(
            (
                group,
                "fit" if all(each.is_fit for each in numbers) else "prediction",
                f"{len(errors)} of {len(predicted)}",
                per_cent(percentile(errors, 0.5)),
                per_cent(percentile(errors, 0.9)),
                per_cent(max(errors, default=None)),
                per_cent(percentile(formed, 0.5)),
                per_cent(percentile(formed, 0.9)),
            )
        )
    columns = ("model and system|", "|", "bars", "median", "90 %", "largest", "closed form, median", "90 %")
    return table("Errors by model and system", columns, rows, "Of |ours / theirs - 1|; bars in the fit set left out.")


def _speed_ups(results: Results, bars: dict[Cell, float]) -> Table:
    rows = []
    for cluster, max_len, count in POINTS:
        cells = {arm: Cell(cluster, max_len, arm, count) for arm in ARMS}
        known = bars[cells["basic"]] / bars[cells["dualpath"]]
        near = bars[cells["dualpath"]] / bars[cells["oracle"]]
        rows.append(
            (
                f"{CLUSTERS[cluster][0]} {max_len.upper()}",
                count,
                *(number(speed_up(results, cells["basic"], cells["dualpath"])), number(known)),
                *(number(speed_up(results, cells["dualpath"], cells["oracle"])), number(near)),
                number(speed_up(results, cells["basic"], cells["layerwise"])),
                number(speed_up(results, cells["layerwise"], cells["dualpath"])),
                number(speed_up(results, cells["layerwise"], cells["split"])),
                number(speed_up(results, cells["dualpath"], cells["split"])),
            )
        )
    columns = (
        "model, set|",
        "agents",
        "basic / dualpath",
        "theirs",
        "dualpath / oracle",
        "theirs",
        "basic / layerwise",
        "layerwise / dualpath",
        "layerwise / split",
        "dualpath / split",
    )
    note = (
        "Ratios of JCT. The last four columns are beyond the paper's figure: what is left of a speed-up over Basic "
        "once layerwise prefill, which is prior art, is granted to the baseline too."
    )
    return table("Speed-ups, also against layerwise", columns, rows, note, is_folded=True)
