"""Heat maps of a sweep: how much faster each arm is than the baseline, what binds. A panel per compute-NIC rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, TwoSlopeNorm
from matplotlib.patches import Patch, Rectangle

from dualpath.report.figure import Figure, finish
from dualpath.report.style import GRID, INK, PAPER, SOFT_INK, arm_colour
from dualpath.results.binding import CANDIDATES, RULE
from dualpath.results.points import BASELINE, BOUND, MEASURES, Finding, Point, Swept, rate_text

CANDIDATE_COLOURS = {
    "snic_prefill": "#e8833a",
    "snic_decode": "#f2c06b",
    "cnic": "#d1589b",
    "dram": "#b0764a",
    "prefill": "#3f7fe0",
    "decode": "#9a63d8",
    "latency": "#94a1b2",
}
_SHORT = {
    "snic_prefill": "SNIC\nPE",
    "snic_decode": "SNIC\nDE",
    "cnic": "CNIC",
    "dram": "DRAM",
    "prefill": "prefill",
    "decode": "decode",
    "latency": "longest\ntrajectory",
}
_CELL_IN = (0.66, 0.48)  # width, height
_LEAST_RANGE = 1.25  # of ratios: smaller differences stay pale

Value = Callable[[Finding], tuple[float, str]]  # colour value (nan: none) and the cell's text


def gain_map(swept: Swept, arm: str) -> Figure | None:
    """How many times faster than the baseline an arm is; None where nothing was compared."""
    found = [ratio for finding in swept.findings if (ratio := finding.ratio(arm)) is not None]
    if not found:
        return None
    most = max(_LEAST_RANGE, *(max(ratio, 1 / ratio) for ratio in found))
    slower, faster = sns.light_palette(arm_colour(BASELINE), 8, reverse=True), sns.light_palette(arm_colour(arm), 8)
    colours = ListedColormap([*slower, *faster])

    def value(finding: Finding) -> tuple[float, str]:
        ratio = finding.ratio(arm)
        if ratio is None:
            return math.nan, "–"
        marks = "\nmeets" if finding.meets(arm) else ""
        return math.log2(ratio), f"{ratio:.2f}×{marks}"

    measure = MEASURES[swept.measure]
    slo = f" “meets”: {arm} keeps the SLO ({swept.slo.text})." if swept.slo else ""
    norm = TwoSlopeNorm(0, -math.log2(most), math.log2(most))
    return _panels(
        swept,
        [(arm, value)],
        f"gain-{arm}",
        f"{arm}: times faster than {BASELINE}",
        f"{measure} of {BASELINE} / {measure} of {arm}; above 1 (its colour) {arm} is faster. The framed cell is the "
        f"cluster as its file has it.{slo}",
        {"cmap": colours, "norm": norm},
    )


def binding_map(swept: Swept, arms: Sequence[str]) -> Figure | None:
    """What binds each of the arms, by colour; None where nothing ran."""
    order = list(CANDIDATES)
    seen: set[str] = set()

    def of(arm: str) -> Value:
        def value(finding: Finding) -> tuple[float, str]:
            binding = finding.binding(arm)
            if binding is None:
                return math.nan, "–"
            seen.add(binding.candidate)
            near = "≈ " if binding.rival else ""
            return order.index(binding.candidate), f"{near}{_SHORT[binding.candidate]}"

        return value

    rows = [(arm, of(arm)) for arm in arms if any(finding.binding(arm) for finding in swept.findings)]
    if not rows:
        return None
    colours = ListedColormap([CANDIDATE_COLOURS[candidate] for candidate in order])
    return _panels(
        swept,
        rows,
        "binding",
        "What binds",
        f"The resource, or the longest trajectory, that the run cannot get below: rule {RULE}. ≈ marks a point where "
        "another candidate is within a tenth of it. The framed cell is the cluster as its file has it.",
        {"cmap": colours, "vmin": -0.5, "vmax": len(order) - 0.5},
        lambda: [
            Patch(color=CANDIDATE_COLOURS[candidate], label=CANDIDATES[candidate])
            for candidate in order
            if candidate in seen
        ],
    )


def _panels(
    swept: Swept,
    rows: Sequence[tuple[str, Value]],
    id: str,
    title: str,
    caption: str,
    colours: dict[str, object],
    legend: Callable[[], list[Patch]] | None = None,
) -> Figure:
    """rows: label and what its cells show. One panel per row and compute-NIC rate: shapes x storage-NIC rates."""
    points = [finding.point for finding in swept.findings]
    shapes = list(dict.fromkeys(point[:2] for point in points))
    snics, cnics = (list(dict.fromkeys(point[place] for point in points)) for place in (2, 3))
    width, height = len(snics) * _CELL_IN[0], len(shapes) * _CELL_IN[1]
    drawing, grid = plt.subplots(
        len(rows),
        len(cnics),
        figsize=(len(cnics) * (width + 0.15) + 0.8, len(rows) * (height + 0.45) + 0.5),
        squeeze=False,
    )
    for row, (label, value) in enumerate(rows):
        for column, cnic in enumerate(cnics):
            axes: Axes = grid[row, column]
            cells = [[_value(swept, value, Point(*shape, snic, cnic)) for snic in snics] for shape in shapes]
            sns.heatmap(
                np.array([[number for number, _ in line] for line in cells]),
                ax=axes,
                annot=np.array([[text for _, text in line] for line in cells]),
                fmt="",
                annot_kws={"size": 8.5 if len(rows) == 1 else 7.5},
                cbar=False,
                linewidths=1.5,
                linecolor=PAPER,
                xticklabels=[_number(snic) for snic in snics],
                yticklabels=[f"{prefill}P{decode}D" for prefill, decode in shapes],
                **colours,
            )
            _mark(axes, swept, cells, shapes, snics, cnic)
            of = f"{label} · " if len(rows) > 1 else ""
            axes.set_title(f"{of}CNIC {rate_text(cnic)}")
            axes.tick_params(length=0, labelrotation=0)
            if row == len(rows) - 1:
                axes.set_xlabel("SNIC, Gbit/s")
            if column:
                axes.set_yticklabels([])
            else:
                axes.set_ylabel("nodes")
    drawing.suptitle(title, x=0.01, ha="left", size=10.5, weight="bold", color=INK)
    drawing.tight_layout()
    handles = legend() if legend else []
    if handles:
        drawing.legend(handles=handles, loc="upper center", ncols=min(4, len(handles)), bbox_to_anchor=(0.5, 0))
    gaps = "A dash is a point that has no result (see the table)."
    return finish(drawing, id, title, caption, gaps=gaps)


def _value(swept: Swept, value: Value, point: Point) -> tuple[float, str]:
    finding = swept.at(point)
    return value(finding) if finding is not None else (math.nan, "–")


def _number(rate: float | None) -> str:
    return rate_text(rate).removesuffix(" Gbit/s")


def _mark(
    axes: Axes,
    swept: Swept,
    cells: list[list[tuple[float, str]]],
    shapes: list[tuple[int, int]],
    snics: list[float | None],
    cnic: float | None,
) -> None:
    """Hatch cells without a value, frame the given cluster's."""
    for y, line in enumerate(cells):
        for x, (number, text) in enumerate(line):
            if math.isnan(number):
                axes.add_patch(Rectangle((x, y), 1, 1, fill=False, hatch="///", edgecolor=GRID, linewidth=0))
                axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", color=SOFT_INK, size=8.5)
    given = swept.given
    if given[:2] in shapes and given.snic_bytes_per_s in snics and given.cnic_bytes_per_s == cnic:
        place = snics.index(given.snic_bytes_per_s), shapes.index(given[:2])
        axes.add_patch(Rectangle(place, 1, 1, fill=False, edgecolor=INK, linewidth=2, clip_on=False))


def figures(swept: Swept) -> tuple[Figure, ...]:
    challengers = [arm for arm in swept.arms if arm not in (BASELINE, BOUND)]
    maps = [gain_map(swept, arm) for arm in challengers]
    maps.append(binding_map(swept, [BASELINE, *challengers]))
    return tuple(figure for figure in maps if figure is not None)
