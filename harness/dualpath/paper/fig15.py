"""Fig 15: 1,152 GPUs, 49,152 agents: throughput, time to first token and agents under way over time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from matplotlib.ticker import EngFormatter

from dualpath.paper import over_time
from dualpath.paper.cells import Cell
from dualpath.paper.draw import panels
from dualpath.paper.numbers import Number, belief_of
from dualpath.paper.part import Part
from dualpath.paper.runs import Results
from dualpath.report.figure import Figure, finish
from dualpath.report.style import INK, arm_colour
from dualpath.results.run import Run

CELL = Cell("ds660b-48p96d", "48k", "dualpath", 49152)
CELLS = (CELL,)
WINDOW_S = 50
SINGLE = 0.15

BELIEFS: dict[str, str] = {
    "paper.fig15.ttft": "the burst of first prompts: ours are 5,800 tokens on average and a PE "
    "computes 6,700 new tokens/s; Table 2 does not give the first prompt's share "
    "of the appends, so theirs may be shorter",
}


class Curve(NamedTuple):
    """One panel."""

    title: str
    unit: str
    of: Callable[[Run], tuple[list[float], list[float]]]  # times, values
    is_fit: bool


def _rate(run: Run) -> tuple[list[float], list[float]]:
    found = over_time.prompt_rate(run, WINDOW_S)
    return found["t_s"].to_list(), found["tokens_per_s"].to_list()


def _ttft(run: Run) -> tuple[list[float], list[float]]:
    found = over_time.mean_ttft(run, WINDOW_S)
    return found["t_s"].to_list(), found["ttft_s"].to_list()


def _running(run: Run) -> tuple[list[float], list[float]]:
    times = [float(t) for t in range(0, 4001, WINDOW_S)]
    return times, [float(count) for count in over_time.running(run, times)]


CURVES = {
    "prompt_rate": Curve("prompt tokens/s", "tokens/s", _rate, False),
    "ttft": Curve("TTFT, s", "s", _ttft, False),
    "running": Curve("agents under way", "agents", _running, True),
}


def report(results: Results) -> Part:
    known: dict[str, list[tuple[float, float]]] = {}
    for row in results.theirs.table("fig15_scale").iter_rows(named=True):
        known.setdefault(row["quantity"], []).append((row["t_s"], row["value"]))
    run = results.run(CELL)
    drawn = {name: curve.of(run) for name, curve in CURVES.items()} if run is not None else {}
    numbers = [
        _number(results, name, t_s, value, drawn.get(name)) for name, points in known.items() for t_s, value in points
    ]
    return Part(
        id="fig15",
        title="Fig 15: at scale",
        text="DS 660B on 48P96D, 49,152 agents of the 48K set at once, DualPath. How agents finish was used to shape "
        "the traces (a fit); throughput and TTFT are predictions.",
        numbers=tuple(numbers),
        figures=(_figure(known, drawn),),
    )


def _number(
    results: Results, name: str, t_s: float, value: float, drawn: tuple[list[float], list[float]] | None
) -> Number:
    id = f"paper.fig15.{name}.{t_s:g}"
    curve = CURVES[name]
    return Number(
        id=id,
        what=f"{curve.title} at {t_s:g} s",
        ours=None if drawn is None else at(*drawn, t_s),
        theirs=value,
        tolerance=SINGLE,
        unit=curve.unit,
        is_fit=curve.is_fit,
        note=results.why_not(CELL),
        rows=results.rows(CELL),
        belief=belief_of(id, BELIEFS),
    )


def at(times: list[float], values: list[float], t_s: float) -> float:
    """The value at the nearest time."""
    return min(zip(times, values, strict=True), key=lambda pair: abs(pair[0] - t_s))[1]


def _figure(known: dict[str, list[tuple[float, float]]], drawn: dict[str, tuple[list[float], list[float]]]) -> Figure:
    drawing, grid = panels(1, len(CURVES), 2.2)
    for axes, (name, curve) in zip(grid[0], CURVES.items(), strict=True):
        if name in drawn:
            axes.plot(*drawn[name], color=arm_colour("dualpath"), linewidth=1.7)
        axes.plot(*zip(*known[name], strict=True), "o", mfc="none", mec=INK, markersize=7, mew=1.3)
        axes.set_title(curve.title)
        axes.set_xlabel("time, s")
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
        axes.set_xlim(0, 3600)
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    drawing.tight_layout()
    return finish(
        drawing,
        "fig15-scale",
        "One run on 1,152 GPUs",
        f"Windows of {WINDOW_S} s; prompt tokens include hits. Rings: values read off the paper's curves.",
    )
