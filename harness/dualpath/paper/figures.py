"""Every figure and table of the paper by name, in the order of the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dualpath.paper import (
    fig7,
    fig8,
    fig9,
    fig10,
    fig11,
    fig12,
    fig13,
    fig14,
    fig15,
    gaps,
    range42,
    sensitivity,
    table1,
    table2,
    table3,
    working_set,
)
from dualpath.paper.cells import Cell
from dualpath.paper.part import Part
from dualpath.paper.runs import Results


class Entry(NamedTuple):
    cells: tuple[Cell, ...]  # runs that it needs
    report: Callable[[Results], Part]


FIGURES: dict[str, Entry] = {
    "table1": Entry(table1.CELLS, table1.report),
    "table2": Entry(table2.CELLS, table2.report),
    "range42": Entry(range42.CELLS, range42.report),
    "fig7": Entry(fig7.CELLS, fig7.report),
    "fig8": Entry(fig8.CELLS, fig8.report),
    "fig9": Entry(fig9.CELLS, fig9.report),
    "fig10": Entry(fig10.CELLS, fig10.report),
    "fig11": Entry(fig11.CELLS, fig11.report),
    "fig12": Entry(fig12.CELLS, fig12.report),
    "fig13": Entry(fig13.CELLS, fig13.report),
    "fig14": Entry(fig14.CELLS, fig14.report),
    "fig15": Entry(fig15.CELLS, fig15.report),
    "table3": Entry(table3.CELLS, table3.report),
    "working_set": Entry(working_set.CELLS, working_set.report),
    "gaps": Entry(gaps.CELLS, gaps.report),
    "sensitivity": Entry(sensitivity.CELLS, sensitivity.report),
}
