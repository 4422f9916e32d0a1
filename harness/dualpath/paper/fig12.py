"""Fig 12: what each step of the design brings (right), and where the time to the first token goes (left)."""

from __future__ import annotations

from collections.abc import Iterable

from dualpath.paper import ttft_shares
from dualpath.paper.cells import ARM_OF, Cell
from dualpath.paper.draw import LABELS, panels
from dualpath.paper.numbers import Number, absolute_errors, belief_of
from dualpath.paper.offline import jct_number
from dualpath.paper.part import Part
from dualpath.paper.runs import Results
from dualpath.report import missing
from dualpath.report.figure import Figure, finish
from dualpath.report.style import INK, arm_colour, rules
from dualpath.results.checks import Check, at_most

AGENTS = (1024, 2048)
ABLATION = ("basic", "layerwise", "dualpath-rr", "dualpath")
CELLS = (*(Cell("ds660b-2p4d", "64k", arm, count) for count in AGENTS for arm in ABLATION), *ttft_shares.CELLS)
SINGLE, CUT_POINTS = 0.12, 5.0

BELIEFS: dict[str, str] = {
    "paper.fig12.dualpath-rr": "the paper does not say whether the quota belongs to this arm, nor how its "
    "sides alternate; ours has no quota and alternates per pair of engines. One alternation for all requests makes "
    "sides coincide with engines: then this arm takes 4,100 and 7,400 s, 28 and 13 % too long",
}


def report(results: Results) -> Part:
    bars = _theirs(results)
    singles = [
        jct_number(results, f"paper.fig12.{cell.arm}.{cell.agents}", cell, value, SINGLE, BELIEFS)
        for cell, value in bars.items()
    ]
    return Part(
        id="fig12",
        title="Fig 12: ablation and TTFT",
        text="Steps are cumulative. `+ dual path` alternates sides from request to request and places requests round "
        "robin: the paper does not name its policy, but Figs 13 and 14 call that curve `without scheduling`. Shares of "
        "TTFT are those of the last window of an online run; the paper does not say of which set, so the 64K set "
        "is judged, as in Fig 10, and the 48K set shown.",
        numbers=(*singles, *_cuts(results), *ttft_shares.numbers(results, BELIEFS)),
        checks=tuple(_checks(results, singles)),
        figures=(_ablation(results, bars), ttft_shares.figure(results)),
        tables=(ttft_shares.shares(results),),
    )


def _theirs(results: Results) -> dict[Cell, float]:
    rows = results.theirs.table("fig12_ablation_jct").iter_rows(named=True)
    return {Cell("ds660b-2p4d", "64k", ARM_OF[row["arm"]], row["agents"]): row["jct_s"] for row in rows}


def _checks(results: Results, singles: list[Number]) -> Iterable[Check]:
    for arm in ABLATION:
        of_arm = [each for each in singles if each.id.startswith(f"paper.fig12.{arm}.")]
        errors = absolute_errors(of_arm)
        cells = [Cell("ds660b-2p4d", "64k", arm, count) for count in AGENTS]
        yield at_most(
            f"paper.fig12.{arm}",
            f"JCT of {arm}, larger error of the two",
            max(errors) if len(errors) == len(AGENTS) else None,
            SINGLE,
            note=results.why_not(*cells),
            rows=results.rows(*cells),
        )


def _cut(results: Results, arm: str) -> float | None:
    """Mean over both loads of how much less than Basic it takes, per cent."""
    cuts = []
    for count in AGENTS:
        basic = results.jct_s(Cell("ds660b-2p4d", "64k", "basic", count))
        found = results.jct_s(Cell("ds660b-2p4d", "64k", arm, count))
        if basic is None or found is None:
            return None
        cuts.append(100 * (1 - found / basic))
    return sum(cuts) / len(cuts)


def _cuts(results: Results) -> Iterable[Number]:
    rows = results.theirs.table("fig12_ablation_jct").unique("arm", maintain_order=True).iter_rows(named=True)
    for row in rows:
        arm = ARM_OF[row["arm"]]
        if arm == "basic":
            continue
        cells = [Cell("ds660b-2p4d", "64k", name, count) for name in ("basic", arm) for count in AGENTS]
        id = f"paper.fig12.cut.{arm}"
        yield Number(
            id=id,
            what=f"mean cut of JCT against basic, {arm} (the paper's text)",
            ours=_cut(results, arm),
            theirs=row["mean_cut_vs_basic_pct_text"],
            tolerance=CUT_POINTS,
            unit="points",
            scale="points",
            note=results.why_not(*cells),
            rows=results.rows(*cells),
            belief=belief_of(id, BELIEFS),
        )


def _ablation(results: Results, bars: dict[Cell, float]) -> Figure:
    drawing, grid = panels(1, 2, 1.7)
    for axes, count in zip(grid[0], AGENTS, strict=True):
        basic = results.jct_s(Cell("ds660b-2p4d", "64k", "basic", count))
        for row, arm in enumerate(ABLATION):
            cell = Cell("ds660b-2p4d", "64k", arm, count)
            found = results.jct_s(cell)
            if found is None:
                missing.mark(axes, row)
            else:
                axes.barh(row, found, height=0.7, color=arm_colour(arm), alpha=0.85, linewidth=0)
            axes.plot(bars[cell], row, "o", mfc="none", mec=INK, markersize=7, mew=1.3)
            if found is not None and basic is not None and arm != "basic":
                text = f"{found / basic - 1:+.0%} (theirs {bars[cell] / bars[_basic(count)] - 1:+.0%})"
                axes.annotate(text, (0, row), xytext=(5, 0), textcoords="offset points", va="center", size=8)
        axes.set_yticks(range(len(ABLATION)), [LABELS[arm] if arm != "dualpath" else "+ scheduler" for arm in ABLATION])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        rules(axes)
        axes.set_title(f"{count:,} agents")
        axes.set_xlabel("JCT, s")
    grid[0][1].set_yticklabels([])
    drawing.tight_layout()
    return finish(
        drawing,
        "fig12-ablation",
        "One step at a time",
        "DS 660B 2P4D, 64K set. Rings are the paper's bars; per cent: against Basic of the same side.",
    )


def _basic(count: int) -> Cell:
    return Cell("ds660b-2p4d", "64k", "basic", count)
