"""Figures of how long things took: ties, speed-ups, where TTFT goes, noise. A figure is None where it has no point."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dualpath.report import missing
from dualpath.report.cells import Cell, Evidence
from dualpath.report.digits import three_digits
from dualpath.report.figure import Figure, finish
from dualpath.report.style import GRID, INK, PART_COLOURS, SOFT_INK, WASH, arm_colour, rules
from dualpath.results.bound import noise
from dualpath.results.metrics import METRICS, NS_PER_S, TTFT_PARTS

TIE_ARMS = ("layerwise", "dualpath")  # the pairs of the paper's Fig 8
TIE_LIMIT = 0.08
WIDTH_IN = 7.6


def ties(evidence: Evidence) -> Figure | None:
    """JCT of every cell, grouped by the number of storage NICs that the arm may read with."""
    cells = [cell for cell in evidence.cells if cell.num_snics]
    if not cells:
        return None
    counts = sorted({cell.num_snics for cell in cells})
    blocks = [sorted((c for c in cells if c.num_snics == count), key=_tie_order) for count in counts]
    height = sum(len(block) + 1.1 for block in blocks)
    drawing, axes = plt.subplots(figsize=(WIDTH_IN, 0.6 + 0.24 * height))
    row, labels, has_band = 0.0, [], False
    for count, block in zip(counts, blocks, strict=True):
        row += 1.1
        axes.annotate(
            f"{count} storage NIC{'s' * (count > 1)}",
            (0, row - 0.85),
            xycoords=("axes fraction", "data"),
            va="center",
            weight="bold",
            size=9.5,
        )
        has_band |= _tie_bands(axes, block, row)
        for cell in block:
            _jct_bar(axes, cell, row)
            labels.append((row, f"{cell.arm} · {cell.group}"))
            row += 1
    axes.set_yticks([place for place, _ in labels], [label for _, label in labels])
    axes.set_ylim(row - 0.3, -0.2)
    axes.set_xlim(0, 1.12 * max(max(cell.jcts_s) for cell in cells))
    axes.set_xlabel("JCT, s")
    axes.spines["left"].set_visible(False)
    rules(axes)
    handles: list[Artist] = [
        Line2D([], [], color=INK, marker="o", markersize=3, linestyle="none", label="one run"),
        Line2D([], [], color=INK, marker="|", markersize=10, linestyle="none", label="analytic bound"),
    ]
    band = ""
    if has_band:
        handles.append(Patch(color=GRID, label=f"within {TIE_LIMIT:.0%} of each other"))
        band = (
            f" The layerwise and dualpath bars of one group should then end inside the grey band, {TIE_LIMIT:.0%} wide."
        )
    drawing.tight_layout()
    drawing.legend(handles=handles, loc="upper center", ncols=3, bbox_to_anchor=(0.55, 0))
    return finish(
        drawing,
        "ties",
        "Equal storage NICs, equal time",
        "Each bar is a mean JCT over repeats, each dot one run. If loading is what limits a run, arms that may read "
        "with the same number of storage NICs take the same time, whatever the cluster's shape (the paper's Fig 8)."
        f"{band} The tick is the time the pooled NICs need at full rate for the hits that were loaded. Arms without "
        "layerwise prefill or without queue-aware routes (basic, dualpath-rr) are not expected to tie.",
    )


def _tie_order(cell: Cell) -> tuple[bool, str, str]:
    return (cell.arm not in TIE_ARMS, cell.group, cell.arm)


def _tie_bands(axes: Axes, block: list[Cell], first_row: float) -> bool:
    """One band per workload behind the rows that should tie, as wide as the limit, about their middle. Whether there
    was any."""
    has_any = False
    for workload in dict.fromkeys(cell.workload for cell in block):
        rows = [i for i, cell in enumerate(block) if cell.arm in TIE_ARMS and cell.workload == workload]
        if len(rows) < 2:
            continue
        times = [block[i].jct_s for i in rows]
        middle = (max(times) + min(times)) / 2
        low = 2 * middle / (2 + TIE_LIMIT)
        axes.fill_betweenx(
            [first_row + rows[0] - 0.5, first_row + rows[-1] + 0.5],
            low,
            low * (1 + TIE_LIMIT),
            color=GRID,
            linewidth=0,
            zorder=0.5,
        )
        has_any = True
    return has_any


def _jct_bar(axes: Axes, cell: Cell, row: float) -> None:
    colour = arm_colour(cell.arm)
    axes.barh(row, cell.jct_s, height=0.62, color=colour, alpha=0.8, linewidth=0)
    axes.plot(cell.jcts_s, np.full(len(cell.jcts_s), row), "o", color=INK, markersize=2.2, zorder=3)
    if cell.bound is not None:
        axes.plot([cell.bound.seconds] * 2, [row - 0.31, row + 0.31], color=INK, linewidth=1.4, zorder=3)
    axes.annotate(
        three_digits(cell.jct_s),
        (max(cell.jcts_s), row),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        size=8,
        color=SOFT_INK,
    )


def speed_ups(evidence: Evidence, baseline_arm: str) -> Figure | None:
    """Speed-up of every arm over the baseline of its group, with intervals."""
    rows = []
    for cell in evidence.cells:
        found = evidence.speed_up(cell, baseline_arm)
        baseline = evidence.cell(cell.group, baseline_arm)
        if found is not None and baseline is not None:
            rows.append((cell, found, baseline.num_snics))
    if not rows:
        return None
    groups = list(dict.fromkeys(cell.group for cell, _, _ in rows))
    arms = list(dict.fromkeys(cell.arm for cell, _, _ in rows))
    drawing, panels = plt.subplots(
        1, len(groups), figsize=(WIDTH_IN, 0.75 + 0.36 * len(arms)), sharey=True, sharex=True, squeeze=False
    )
    edge = 1.15 * max([1.5, *(found.speed_up.high for cell, found, _ in rows if cell.num_snics)])
    for axes, group in zip(panels[0], groups, strict=True):
        axes.axvline(1, color=SOFT_INK, linewidth=0.9)
        for cell, found, baseline_snics in rows:
            if cell.group != group:
                continue
            row, colour = arms.index(cell.arm), arm_colour(cell.arm)
            value, interval = found.speed_up.value, found.trajectory_speed_up
            is_outside = value > edge
            place = edge * 0.985 if is_outside else value
            if interval.is_known:
                ends = [min(interval.low, edge), min(interval.high, edge)]
                axes.plot(ends, [row, row], color=colour, lw=5, alpha=0.35)
            axes.plot(place, row, ">" if is_outside else "o", color=colour, markersize=7)
            axes.annotate(
                f"{value:.2f}",
                (place, row),
                xytext=(0, 6),
                textcoords="offset points",
                ha="right" if is_outside else "center",
                size=8,
            )
            if cell.num_snics > baseline_snics > 0:
                limit = cell.num_snics / baseline_snics
                axes.plot([limit, limit], [row - 0.35, row + 0.35], color=INK, linewidth=1.2, linestyle=":")
        axes.set_title(group)
        rules(axes)
        axes.spines["left"].set_visible(False)
    panels[0][0].set_yticks(range(len(arms)), arms)
    panels[0][0].set_ylim(len(arms) - 0.5, -0.75)
    panels[0][0].set_xlim(min(0.8, *(found.speed_up.low for _, found, _ in rows)), edge)
    panels[0][len(groups) // 2].set_xlabel(f"JCT of {baseline_arm} / JCT of the arm")
    drawing.tight_layout(w_pad=1.5)
    return finish(
        drawing,
        f"speed-up-{baseline_arm}",
        f"Speed-up over {baseline_arm}",
        f"Dot: mean JCT of {baseline_arm} divided by that of the arm; right of 1 is faster. Bar: 95 % interval of "
        "the ratio of mean trajectory times, paired and resampled by trajectory (none where they are too few): another "
        "number than the dot, which the last trajectory alone decides. The machine's noise is shown by A against A. "
        "Dotted: the ratio of storage NICs the two may read with, the most that loading alone can bring. An "
        "arrow stands for a value beyond the edge (oracle reads nothing).",
    )


def ttft_parts(evidence: Evidence) -> Figure | None:
    """Mean TTFT of every arm, stacked by its parts."""
    cells = list(evidence.cells)
    if not cells:
        return None
    groups = evidence.groups
    arms = list(dict.fromkeys(cell.arm for cell in cells))
    drawing, panels = plt.subplots(
        1, len(groups), figsize=(WIDTH_IN, 0.85 + 0.3 * len(arms)), sharey=True, sharex=True, squeeze=False
    )
    longest = max((cell.numbers["ttft"] or 0.0) for cell in cells) / NS_PER_S
    scale, unit = (1.0, "s") if longest >= 1 else (1e3, "ms")
    for axes, group in zip(panels[0], groups, strict=True):
        for cell in evidence.of_group(group):
            left, row = 0.0, arms.index(cell.arm)
            parts = [(part, value) for part in TTFT_PARTS if (value := cell.numbers[part]) is not None]
            if len(parts) < len(TTFT_PARTS):
                missing.mark(axes, row)
                continue
            for part, value_ns in parts:
                value = value_ns / NS_PER_S * scale
                axes.barh(row, value, left=left, height=0.62, color=PART_COLOURS[part], linewidth=0)
                left += value
            axes.annotate(
                three_digits(left),
                (left, row),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                size=8,
                color=SOFT_INK,
            )
        axes.set_title(group)
        rules(axes)
        axes.spines["left"].set_visible(False)
    panels[0][0].set_yticks(range(len(arms)), arms)
    panels[0][0].set_ylim(len(arms) - 0.5, -0.5)
    panels[0][0].set_xlim(0, longest * scale * 1.18)
    panels[0][len(groups) // 2].set_xlabel(f"mean TTFT, {unit}")
    handles = [Patch(color=PART_COLOURS[part], label=part) for part in TTFT_PARTS]
    drawing.tight_layout(w_pad=1.5)
    drawing.legend(handles=handles, loc="upper center", ncols=len(TTFT_PARTS), bbox_to_anchor=(0.5, 0))
    formulas = "; ".join(f"{part} = {METRICS[part].formula}" for part in TTFT_PARTS)
    return finish(
        drawing,
        "ttft",
        "Where the time to the first token goes",
        f"Means over all turns of all repeats; the parts add up to TTFT exactly ({formulas}). With every agent "
        "starting at once, most of it is queueing: the part in which a turn waits names the resource it waits for. "
        "Reading and computing overlap in layerwise arms; `prefill` is only what is left after the last hit "
        "block has arrived.",
    )


def a_against_a(evidence: Evidence, limit: float) -> Figure | None:
    """Every repeat of every cell as a deviation from the cell's mean JCT."""
    cells = [cell for cell in evidence.cells if len(cell.runs) > 1]
    if not cells:
        return None
    drawing, axes = plt.subplots(figsize=(WIDTH_IN, 0.7 + 0.2 * len(cells)))
    axes.axvspan(-50 * limit, 50 * limit, color=WASH, linewidth=0)
    axes.axvline(0, color=SOFT_INK, linewidth=0.8)
    widest = 50 * limit
    for row, cell in enumerate(cells):
        deviation = [(time / cell.jct_s - 1) * 100 for time in cell.jcts_s]
        widest = max(widest, *map(abs, deviation))
        axes.plot([min(deviation), max(deviation)], [row, row], color=arm_colour(cell.arm), linewidth=2, alpha=0.5)
        axes.plot(deviation, [row] * len(deviation), "o", color=arm_colour(cell.arm), markersize=5)
        spread = noise(cell.runs)
        assert spread is not None, "cells of one run were left out above"
        axes.annotate(
            f"{spread.spread:.1%}",
            (1.01, row),
            xycoords=("axes fraction", "data"),
            va="center",
            size=8,
            color=SOFT_INK if spread.spread <= limit else PART_COLOURS["prefill"],
        )
    axes.set_yticks(range(len(cells)), [f"{cell.arm} · {cell.group}" for cell in cells])
    axes.set_ylim(len(cells) - 0.4, -0.6)
    axes.set_xlim(-1.1 * widest, 1.1 * widest)
    axes.set_xlabel("JCT against the mean of its repeats, %")
    axes.spines["left"].set_visible(False)
    rules(axes)
    return finish(
        drawing,
        "noise",
        "A against A",
        f"The same configuration run again: each dot is one repeat, the number on the right is the largest JCT over "
        f"the smallest, less 1. The band is {limit:.0%} wide. Differences between arms smaller than this spread "
        "mean nothing; with few repeats the spread itself is a rough estimate.",
    )
