"""How the paper's figures are redrawn: ours solid, theirs hollow, one colour per system, small multiples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dualpath.paper.numbers import Number
from dualpath.report.style import INK, SOFT_INK, WASH, arm_colour, rules

WIDTH_IN = 7.6
GAP = "A line has no point where the run is missing or void."
GAP_OR_SLO = "A line has no point where the run is missing, void or beyond the SLO."
LABELS = {
    "basic": "Basic",
    "layerwise": "+ layerwise",
    "dualpath-rr": "+ dual path",
    "dualpath": "DualPath",
    "split": "split",
    "oracle": "Oracle",
    "sgl_mc": "SGL(MC)",
}


def panels(
    rows: int, columns: int, height_in: float, *, share_x: bool = False, share_y: bool = False
) -> tuple[Drawing, list[list[Axes]]]:
    """A grid of axes with hair lines; height_in of one row."""
    drawing, grid = plt.subplots(
        rows,
        columns,
        figsize=(WIDTH_IN, height_in * rows + 0.3),
        sharex="col" if share_x else "none",
        sharey="row" if share_y else "none",
        squeeze=False,
    )
    for axes in grid.flat:
        rules(axes, "both")
    return drawing, cast(list[list[Axes]], grid.tolist())


def ours(axes: Axes, x: Sequence[float], y: Sequence[float | None], arm: str, *, is_dashed: bool = False) -> None:
    """A line through what was run, with a gap where nothing was; dashed and above the others where the paper has no
    such system. Pass GAP to finish."""
    axes.plot(
        x,
        [math.nan if value is None else value for value in y],
        color=arm_colour(arm),
        marker="o",
        markersize=3.2,
        linewidth=1.3 if is_dashed else 1.7,
        linestyle=(0, (3, 2)) if is_dashed else "-",
        zorder=3 if is_dashed else 2,
    )


def theirs(axes: Axes, x: Sequence[float], y: Sequence[float], arm: str) -> None:
    """Rings."""
    axes.plot(
        x,
        y,
        linestyle="none",
        marker="o",
        markersize=6.5,
        markeredgewidth=1.3,
        markerfacecolor="none",
        markeredgecolor=arm_colour(arm),
        zorder=4,
    )


def log_counts(axes: Axes, counts: Sequence[int]) -> None:
    """Agents along x, by powers of two."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(counts), [f"{count:,}" for count in counts])
    axes.minorticks_off()
    axes.set_xlim(min(counts) / 1.25, max(counts) * 1.25)


def log_seconds(axes: Axes) -> None:
    """Plain numbers on a logarithmic axis."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    ticks = [m * 10**e for e in range(-3, 6) for m in (1, 2, 5) if low <= m * 10**e <= high]
    axes.set_yticks(ticks, [f"{tick:,.5g}" for tick in ticks])
    axes.minorticks_off()


def legend(
    drawing: Drawing, arms: Iterable[str], more: Iterable[Line2D | Patch] = (), *, rings: bool = True, columns: int = 9
) -> None:
    """Below the panels: systems by colour, then what line and ring stand for."""
    handles: list[Line2D | Patch] = [Patch(color=arm_colour(arm), label=LABELS.get(arm, arm)) for arm in arms]
    if rings:
        handles.append(Line2D([], [], color=INK, marker="o", markersize=3.2, linewidth=1.5, label="ours"))
        ring = Line2D([], [], color=INK, marker="o", markersize=6.5, linestyle="none", label="theirs")
        ring.set_markerfacecolor("none")
        handles.append(ring)
    handles += more
    drawing.legend(
        handles=handles,
        loc="upper center",
        ncols=min(columns, len(handles)),
        bbox_to_anchor=(0.5, 0),
        columnspacing=1.2,
        handlelength=1.4,
    )


def error_strips(axes: Axes, groups: Mapping[str, Sequence[Number]], colours: dict[str, str], limit: float) -> None:
    """Signed errors, a row of dots per group, fits hollow; the band is the tolerance of a single number."""
    axes.axvspan(-100 * limit, 100 * limit, color=WASH, linewidth=0, zorder=0)
    axes.axvline(0, color=SOFT_INK, linewidth=0.9)
    rng = np.random.default_rng(0)
    for row, (group, numbers) in enumerate(groups.items()):
        for number in numbers:
            if number.error is None or number.scale != "relative":
                continue
            face = "none" if number.is_fit else colours[group]
            place = row + rng.uniform(-0.18, 0.18)
            axes.plot(100 * number.error, place, "o", mfc=face, mec=colours[group], markersize=4, alpha=0.85)
    axes.set_yticks(range(len(groups)), list(groups))
    axes.set_ylim(len(groups) - 0.5, -0.5)
    rules(axes)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("ours against theirs, %")
