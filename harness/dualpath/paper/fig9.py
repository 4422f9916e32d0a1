"""Fig 9: longer appends and longer outputs, cut at 64K; DS 660B, 1,024 agents."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

from dualpath.paper.cells import Cell
from dualpath.paper.draw import GAP, legend, ours, panels, theirs
from dualpath.paper.offline import jct_number, ratio_number, speed_up
from dualpath.paper.part import Part
from dualpath.paper.runs import Results
from dualpath.report.figure import Figure, finish

Scaled = Literal["append", "generate"]
SCALED: tuple[Scaled, ...] = ("append", "generate")
FACTORS = (Fraction(1), Fraction(3, 2), Fraction(2), Fraction(3))
ARMS = ("basic", "dualpath", "oracle")
SINGLE = 0.15

BELIEFS: dict[str, str] = {}


def _cell(scaled: Scaled, factor: Fraction, arm: str) -> Cell:
    append, generate = (factor, Fraction(1)) if scaled == "append" else (Fraction(1), factor)
    return Cell("ds660b-2p4d", "64k", arm, 1024, append_factor=append, generate_factor=generate)


CELLS = tuple(_cell(scaled, factor, arm) for scaled in SCALED for factor in FACTORS for arm in ARMS)


def report(results: Results) -> Part:
    bars = _theirs(results)
    singles = [
        jct_number(
            results,
            f"paper.fig9.{scaled}.{float(factor):g}.{arm}",
            _cell(scaled, factor, arm),
            bars[scaled, factor, arm],
            SINGLE,
            BELIEFS,
        )
        for scaled, factor, arm in bars
        if scaled == "append" or factor != 1  # generate x 1: the same bars as append x 1
    ]
    ratios = [
        ratio_number(
            results,
            f"paper.fig9.ratio.{scaled}.{float(factor):g}",
            _cell(scaled, factor, "basic"),
            _cell(scaled, factor, "dualpath"),
            bars[scaled, factor, "basic"] / bars[scaled, factor, "dualpath"],
            SINGLE,
            BELIEFS,
        )
        for scaled in SCALED
        for factor in FACTORS
        if scaled == "append" or factor != 1
    ]
    return Part(
        id="fig9",
        title="Fig 9: longer appends, longer outputs",
        text="Every append (the first prompt among them) or every output is multiplied, then trajectories are cut at "
        "64K tokens: turns get fewer. The paper's text says that Basic comes closer to DualPath as appends grow; by "
        "its bars the ratio stays, only the absolute gap shrinks. It is longer outputs that shrink the ratio.",
        numbers=(*singles, *ratios),
        figures=(_figure(results, bars),),
    )


def _theirs(results: Results) -> dict[tuple[Scaled, Fraction, str], float]:
    rows = results.theirs.table("fig9_length_scaling_jct").iter_rows(named=True)
    return {(row["scaled"], Fraction(str(row["factor"])), row["system"]): row["jct_s"] for row in rows}


def _figure(results: Results, bars: dict[tuple[Scaled, Fraction, str], float]) -> Figure:
    drawing, grid = panels(2, 2, 2.0, share_x=True, share_y=True)
    factors = [float(factor) for factor in FACTORS]
    for column, scaled in enumerate(SCALED):
        top, bottom = grid[0][column], grid[1][column]
        for arm in ARMS:
            ours(top, factors, [results.jct_s(_cell(scaled, factor, arm)) for factor in FACTORS], arm)
            theirs(top, factors, [bars[scaled, factor, arm] for factor in FACTORS], arm)
        pairs = [(_cell(scaled, factor, "basic"), _cell(scaled, factor, "dualpath")) for factor in FACTORS]
        ours(bottom, factors, [speed_up(results, *pair) for pair in pairs], "dualpath")
        ratios = [bars[scaled, factor, "basic"] / bars[scaled, factor, "dualpath"] for factor in FACTORS]
        theirs(bottom, factors, ratios, "dualpath")
        top.set_title("appends multiplied" if scaled == "append" else "outputs multiplied")
        bottom.set_xlabel("factor")
        bottom.set_xticks(factors)
    grid[0][0].set_ylabel("JCT, s")
    grid[0][0].set_ylim(bottom=0)
    grid[1][0].set_ylabel("Basic / DualPath")
    grid[1][0].set_ylim(bottom=1)
    drawing.tight_layout()
    legend(drawing, ARMS)
    return finish(
        drawing,
        "fig9-lengths",
        "Completion time as lengths grow",
        "DS 660B 2P4D, 1,024 agents of the 64K set. Above: JCT. Below: the speed-up of DualPath over Basic.",
        gaps=GAP,
    )
