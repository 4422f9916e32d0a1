"""Fig 12, left: schedule, allocate, read and prefill as shares of TTFT, DS 660B online."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from dualpath.paper.cells import MaxLen, online
from dualpath.paper.draw import LABELS, legend, panels
from dualpath.paper.numbers import Number, belief_of
from dualpath.paper.online import PARTS
from dualpath.paper.runs import Results
from dualpath.report import missing
from dualpath.report.figure import Figure, finish
from dualpath.report.style import PART_COLOURS
from dualpath.report.table import NONE, Table, shown, table

RATES = (0.15, 0.2, 0.25)
ARMS = ("dualpath", "basic")
SETS: tuple[MaxLen, ...] = ("64k", "48k")  # the paper does not say which; the first is the one judged
CELLS = tuple(online("ds660b-2p4d", max_len, arm, rate) for max_len in SETS for rate in RATES for arm in ARMS)
POINTS = 10.0  # tolerance of a share


def _theirs(results: Results) -> dict[tuple[float, str], dict[str, float]]:
    rows = results.theirs.table("fig12_ttft_breakdown_pct").iter_rows(named=True)
    return {(row["agents_per_s"], row["system"]): {part: row[f"{part}_pct"] for part in PARTS} for row in rows}


def numbers(results: Results, beliefs: Mapping[str, str]) -> Iterable[Number]:
    for (rate, arm), shares in _theirs(results).items():
        cell = online("ds660b-2p4d", SETS[0], arm, rate)
        point = results.point(cell)
        for part in PARTS:
            id = f"paper.fig12.ttft.{arm}.{rate:g}.{part}"
            yield Number(
                id=id,
                what=f"{part}'s share of TTFT, {arm} at {rate:g} agents/s",
                ours=None if point is None else 100 * point.parts[part],
                theirs=shares[part],
                tolerance=POINTS,
                unit="points",
                scale="points",
                note=results.why_not(cell),
                rows=results.rows(cell),
                belief=belief_of(id, beliefs),
            )


def figure(results: Results) -> Figure:
    known = _theirs(results)
    drawing, grid = panels(1, 2, 2.9)
    for axes, arm in zip(grid[0], ARMS, strict=True):
        place, places, names = 0.0, [], []
        for rate in RATES:
            shown: list[tuple[str, dict[str, float] | None]] = [("theirs", known[rate, arm])]
            for max_len in SETS:
                point = results.point(online("ds660b-2p4d", max_len, arm, rate))
                shares = None if point is None else {part: 100 * point.parts[part] for part in PARTS}
                shown.append((f"ours, {max_len.upper()}", shares))
            for who, shares in shown:
                if shares is None:
                    missing.mark(axes, place)
                else:
                    _stack(axes, place, shares, alpha=0.45 if who == "theirs" else 0.95)
                places.append(place)
                names.append(f"{rate:g}/s {who}" if who == "theirs" else who)
                place += 1
            place += 0.5
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.grid(visible=False, axis="y")
        axes.set_title(LABELS[arm])
        axes.set_xlabel("share of TTFT, %")
    grid[0][1].set_yticklabels([])
    drawing.tight_layout()
    legend(drawing, (), [Patch(color=PART_COLOURS[part], label=part) for part in PARTS], rings=False)
    return finish(
        drawing,
        "fig12-ttft",
        "Where the time to the first token goes",
        "DS 660B 2P4D, turns of the last window. Pale: the paper's bars. Schedule: due until both engines "
        "are chosen; allocate: until buffers are granted; read: until every hit block is in DRAM; prefill: the rest.",
    )


def _stack(axes: Axes, place: float, shares: dict[str, float], alpha: float) -> None:
    left = 0.0
    for part, share in shares.items():
        axes.barh(place, share, left=left, height=0.8, color=PART_COLOURS[part], alpha=alpha, linewidth=0)
        left += share


def shares(results: Results) -> Table:
    known = _theirs(results)
    rows = []
    for arm in ARMS:
        for rate in RATES:
            row = [arm, shown(rate, "g"), " / ".join(f"{known[rate, arm][part]:g}" for part in PARTS)]
            for max_len in SETS:
                point = results.point(online("ds660b-2p4d", max_len, arm, rate))
                row.append(" / ".join(f"{100 * point.parts[part]:.0f}" for part in PARTS) if point else NONE)
                row.append(f"{point.ttft_s:.2f}, {point.reason}" if point else NONE)
            rows.append(row)
    columns = ["system|", "agents/s", "theirs, %"]
    for max_len in SETS:
        columns += [f"{max_len.upper()}, %", f"TTFT of {max_len.upper()}, s|"]
    return table("Schedule / allocate / read / prefill", columns, rows)
