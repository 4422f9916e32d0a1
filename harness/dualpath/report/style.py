"""How figures look: one colour per arm everywhere, inks that a page can swap for dark mode."""

from __future__ import annotations

from typing import Literal

import matplotlib as mpl
import seaborn as sns
from matplotlib.axes import Axes

# Inks are sentinels: an SVG inside a page has them replaced by CSS variables, so that they follow its colour scheme.
INK = "#1c2530"
SOFT_INK = "#697586"
GRID = "#dfe4ea"
WASH = "#eef1f5"
PAPER = "#fefefe"
INKS = {INK: "--ink", SOFT_INK: "--soft-ink", GRID: "--grid", WASH: "--wash", PAPER: "--paper"}

ARM_COLOURS = {  # of middle lightness: they must carry on white and on near-black
    "basic": "#94a1b2",
    "layerwise": "#e8833a",
    "dualpath-rr": "#3fb8af",
    "dualpath": "#3f7fe0",
    "split": "#9a63d8",
    "oracle": "#d9ac1f",
}
PART_COLOURS = {
    "release": "#3fb8af",
    "schedule": "#94a1b2",
    "allocate": "#d9ac1f",
    "read": "#3f7fe0",
    "prefill": "#e0605a",
}
_OTHER_COLOURS = ("#d1589b", "#6fae45", "#b0764a", "#4fa3d1")


def arm_colour(arm: str) -> str:
    """The arm's colour; an arm of one's own gets one of four others, always the same."""
    known = ARM_COLOURS.get(arm)
    return known or _OTHER_COLOURS[sum(map(ord, arm)) % len(_OTHER_COLOURS)]


def apply() -> None:
    """Set matplotlib up for these figures. Call once before drawing."""
    mpl.use("Agg")
    sns.set_theme(style="white", font_scale=0.85)
    mpl.rcParams.update(
        {
            "figure.facecolor": "none",
            "savefig.facecolor": "none",
            "axes.facecolor": "none",
            "axes.edgecolor": GRID,
            "axes.labelcolor": SOFT_INK,
            "axes.titlecolor": INK,
            "axes.titlesize": 9.5,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.labelsize": 8.5,
            "text.color": INK,
            "xtick.color": SOFT_INK,
            "ytick.color": SOFT_INK,
            "xtick.labelsize": 8,
            "ytick.labelsize": 8.5,
            "grid.color": GRID,
            "grid.linewidth": 0.7,
            "legend.frameon": False,
            "legend.fontsize": 8.5,
            "font.family": "DejaVu Sans",
            "svg.fonttype": "none",
            "svg.hashsalt": "dualpath",
            "hatch.linewidth": 0.6,
        }
    )


def rules(axes: Axes, axis: Literal["both", "x", "y"] = "x") -> None:
    """Hair lines behind the data along one axis, no tick marks."""
    axes.grid(visible=True, axis=axis)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
