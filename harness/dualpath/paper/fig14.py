"""Fig 14: how evenly attention time is spread over the PEs of a forward pass, as a run goes on."""

from __future__ import annotations

import polars as pl

from dualpath.paper.cells import ARM_OF, Cell
from dualpath.paper.draw import GAP, legend, ours, panels, theirs
from dualpath.paper.numbers import Number, belief_of
from dualpath.paper.part import Part
from dualpath.paper.runs import Results
from dualpath.report.figure import Figure, finish
from dualpath.report.table import Table, number, shown, table
from dualpath.results.run import Run, polars_schema

AGENTS = (512, 1024)
ARMS = ("dualpath", "dualpath-rr")
CELLS = tuple(Cell("ds660b-2p4d", "48k", arm, count) for count in AGENTS for arm in ARMS)
STEP_PCT = 5
SINGLE = 0.20

BELIEFS: dict[str, str] = {}
Curve = dict[int, float]  # progress, per cent -> max / avg


def report(results: Results) -> Part:
    rows = results.theirs.table("fig14_attention_balance").iter_rows(named=True)
    known: dict[Cell, Curve] = {}
    for row in rows:
        known.setdefault(_cell(ARM_OF[row["system"]], row["agents"]), {})[row["progress_pct"]] = row["max_over_avg"]
    curves = {cell: _curve(results, cell) for cell in known}
    numbers = []
    for cell, points in known.items():
        for progress, value in points.items():
            id = f"paper.fig14.{cell.agents}.{cell.arm}.{progress}"
            curve = curves[cell]
            numbers.append(
                Number(
                    id=id,
                    what=f"attention max / avg at {progress} % of the task, {cell.agents:,} agents, {cell.arm}",
                    ours=None if curve is None else curve.get(progress),
                    theirs=value,
                    tolerance=SINGLE,
                    unit="1",
                    note=results.why_not(cell),
                    rows=results.rows(cell),
                    belief=belief_of(id, BELIEFS),
                )
            )
    return Part(
        id="fig14",
        title="Fig 14: balance of attention time",
        text="Per forward pass, the attention time of the PE with most of it over the mean of its group. Progress is "
        "the share of turns that have their first token, in steps of 5 % (named choice: the paper does not define it). "
        "Late in a run there is too little to balance, as the paper says itself.",
        numbers=tuple(numbers),
        figures=(_figure(known, curves),),
        tables=(_by_progress(known, curves),),
    )


def _cell(arm: str, agents: int) -> Cell:
    return Cell("ds660b-2p4d", "48k", arm, agents)


def _curve(results: Results, cell: Cell) -> Curve | None:
    run = results.run(cell)
    return None if run is None else balance_by_progress(run)


def balance_by_progress(run: Run) -> Curve:
    """Mean over passes of max / avg, by the step of progress (its upper end) in which a pass began. Empty where the run
    has no table of passes, which only simulated runs have."""
    path = run.directory / "passes.parquet"
    if not path.exists():
        return {}
    passes = pl.read_parquet(path).filter(pl.col("attention_mean_ns") > 0).sort("start_ns")
    assert dict(passes.schema) == polars_schema("passes")
    firsts = run.turns.select(pl.col("first_token_ns").sort()).collect()["first_token_ns"]
    done = firsts.search_sorted(passes["start_ns"], side="right") / len(firsts)
    step = ((done * 100) // STEP_PCT * STEP_PCT + STEP_PCT).cast(pl.Int64).alias("progress")
    ratios = (
        passes.with_columns(step)
        .group_by("progress")
        .agg((pl.col("attention_max_ns") / pl.col("attention_mean_ns")).mean().alias("ratio"))
        .sort("progress")
    )
    return dict(ratios.iter_rows())


def _figure(known: dict[Cell, Curve], curves: dict[Cell, Curve | None]) -> Figure:
    drawing, grid = panels(1, len(AGENTS), 2.3, share_y=True)
    for axes, count in zip(grid[0], AGENTS, strict=True):
        for arm in ARMS:
            cell = _cell(arm, count)
            curve = curves[cell] or {}
            ours(axes, list(curve), list(curve.values()), arm)
            theirs(axes, list(known[cell]), list(known[cell].values()), arm)
        axes.set_title(f"{count:,} agents")
        axes.set_xlabel("task progress, %")
        axes.set_xlim(0, 102)
    grid[0][0].set_ylabel("attention, max / avg")
    grid[0][0].set_ylim(0.95, 3.2)
    drawing.tight_layout()
    legend(drawing, ARMS)
    return finish(
        drawing,
        "fig14-attention",
        "Attention time of the busiest PE against the mean",
        "DS 660B 2P4D, 48K set, mean over passes by progress. The paper shows the first half; "
        "the end of a run, where single PEs are busy, is cut off above.",
        gaps=GAP,
    )


def _by_progress(known: dict[Cell, Curve], curves: dict[Cell, Curve | None]) -> Table:
    rows = []
    for progress in range(STEP_PCT, 51, STEP_PCT):
        row = [shown(progress, "g")]
        for cell, points in known.items():
            row += [number((curves[cell] or {}).get(progress)), number(points.get(progress))]
        rows.append(row)
    columns = ["progress, %"]
    for cell in known:
        columns += [f"{cell.agents:,} {cell.arm}", "theirs"]
    return table("Attention, max / avg", columns, rows, is_folded=True)
