"""Fig 11: mean time that a trajectory takes, online; the same runs as Fig 10."""

from __future__ import annotations

from dualpath.paper import capacity
from dualpath.paper.capacity import ARMS, BEYOND, RATES, SETS, rates_of
from dualpath.paper.cells import CLUSTERS, MaxLen, online
from dualpath.paper.draw import GAP_OR_SLO, legend, ours, panels, theirs
from dualpath.paper.numbers import Number, absolute_errors, belief_of, percentile
from dualpath.paper.offline import CLUSTER_OF, label
from dualpath.paper.part import Part
from dualpath.paper.runs import Results
from dualpath.report.figure import Figure, finish
from dualpath.report.table import Table, per_cent, table

CELLS = capacity.CELLS
SINGLE = 0.15

BELIEFS: dict[str, str] = {}
Times = dict[tuple[str, float, str], float]


def report(results: Results) -> Part:
    known = _theirs(results)
    return Part(
        id="fig11",
        title="Fig 11: trajectory time online",
        text="Mean over the trajectories that have ended when the run stops, as a run that stops there sees them: the "
        "longest are still under way and are not counted. The table shows how much that matters: `begun` counts every "
        "trajectory that began before the stop, however long it took afterwards.",
        numbers=tuple(_numbers(results, known, SETS[0], is_begun=False)),
        figures=(_figure(results, known),),
        tables=(_readings(results, known),),
    )


def _theirs(results: Results) -> Times:
    rows = results.theirs.table("fig11_trajectory_time").iter_rows(named=True)
    return {
        (CLUSTER_OF[row["model"], row["nodes"]], row["agents_per_s"], row["system"]): row["mean_trajectory_s"]
        for row in rows
    }


def _numbers(results: Results, known: Times, max_len: MaxLen, *, is_begun: bool) -> list[Number]:
    found = []
    for (cluster, rate, arm), value in known.items():
        if arm == "sgl_mc":
            continue
        cell = online(cluster, max_len, arm, rate)
        point = results.point(cell)
        ours_ = None if point is None else point.begun_trajectory_s if is_begun else point.trajectory_s
        id = f"paper.fig11.{cluster}.{rate:g}.{arm}"
        found.append(
            Number(
                id=id,
                what=f"trajectory time, {label(cell)}",
                ours=ours_,
                theirs=value,
                tolerance=SINGLE,
                note=results.why_not(cell) or ("" if ours_ is not None else "no trajectory ended before the stop"),
                rows=results.rows(cell),
                belief=belief_of(id, BELIEFS),
            )
        )
    return found


def _figure(results: Results, known: Times) -> Figure:
    drawing, grid = panels(len(SETS), len(RATES), 2.1)
    for row, max_len in enumerate(SETS):
        for column, cluster in enumerate(RATES):
            axes = grid[row][column]
            for arm in ("sgl_mc", *ARMS):
                points = [
                    (rate, results.point(online(cluster, max_len, arm, rate)))
                    for rate in (rates_of(cluster, arm) if arm != "sgl_mc" else ())
                ]
                times = [point.trajectory_s if point and point.is_within_slo else None for _, point in points]
                ours(axes, [rate for rate, _ in points], times, arm, is_dashed=arm in BEYOND)
                rings = [(rate, v) for (where, rate, who), v in known.items() if (where, who) == (cluster, arm)]
                theirs(axes, [rate for rate, _ in rings], [time for _, time in rings], arm)
            axes.set_title(f"{CLUSTERS[cluster][0]} · {max_len.upper()}")
            axes.set_xlim(0, RATES[cluster][-1] * 1.04)
            axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
            if column == 0:
                axes.set_ylabel("trajectory, s")
            if row == len(SETS) - 1:
                axes.set_xlabel("agents per second")
    drawing.tight_layout(w_pad=0.8, h_pad=0.8)
    legend(drawing, (*ARMS, "sgl_mc"))
    return finish(
        drawing,
        "fig11-trajectories",
        "Mean time of a trajectory",
        "At rates within the SLO. The rings are the same in both rows: the paper does not say which set it used.",
        gaps=GAP_OR_SLO,
    )


def _readings(results: Results, known: Times) -> Table:
    rows = []
    for max_len in SETS:
        for is_begun in (False, True):
            found = _numbers(results, known, max_len, is_begun=is_begun)
            row = [max_len.upper(), "begun before the stop" if is_begun else "ended before the stop"]
            for cluster in RATES:
                of_cluster = [each for each in found if f".{cluster}." in each.id]
                signed = sorted(each.error for each in of_cluster if each.error is not None)
                row.append(per_cent(percentile(absolute_errors(of_cluster), 0.5)))
                row.append(per_cent(percentile(signed, 0.5)))
            rows.append(row)
    columns = ["set|", "trajectories|"]
    for cluster in RATES:
        columns += [f"{CLUSTERS[cluster][0]}, median error", "signed"]
    return table("By set and by which trajectories count", columns, rows)
