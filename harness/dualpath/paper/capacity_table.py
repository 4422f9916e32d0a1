"""Capacities of Fig 10 drawn and listed: ours by set, theirs beside them."""

from __future__ import annotations

from dualpath.paper.capacity import ARMS, RATES, SETS, Capacity, capacity
from dualpath.paper.cells import CLUSTERS
from dualpath.paper.draw import LABELS, panels
from dualpath.paper.offline import CLUSTER_OF
from dualpath.paper.runs import Results
from dualpath.report import missing
from dualpath.report.figure import Figure, finish
from dualpath.report.style import INK, arm_colour, rules
from dualpath.report.table import NONE, Table, number, table


def theirs_of(results: Results) -> dict[tuple[str, str], float]:
    """(cluster, system) -> agents per second."""
    rows = results.theirs.table("fig10_capacity").iter_rows(named=True)
    return {(CLUSTER_OF[row["model"], row["nodes"]], row["system"]): row["max_agents_per_s"] for row in rows}


def capacity_figure(results: Results) -> Figure:
    known = theirs_of(results)
    drawing, grid = panels(1, len(RATES), 2.0)
    for axes, cluster in zip(grid[0], RATES, strict=True):
        for row, arm in enumerate(ARMS):
            for place, max_len in zip((row, row + 0.3), SETS, strict=True):
                found = capacity(results, cluster, max_len, arm)
                is_judged = max_len == SETS[0]
                if found.rate_per_s is None:
                    missing.mark(axes, place)
                    continue
                axes.barh(
                    place,
                    found.rate_per_s,
                    height=0.34 if is_judged else 0.16,
                    color=arm_colour(arm),
                    alpha=0.85 if is_judged else 0.4,
                    linewidth=0,
                )
                if found.is_least and found.rate_per_s:
                    axes.plot(found.rate_per_s, place, ">", color=arm_colour(arm), markersize=4)
            if (cluster, arm) in known:
                axes.plot(known[cluster, arm], row, "o", mfc="none", mec=INK, markersize=7, mew=1.3)
        axes.set_yticks(range(len(ARMS)), [LABELS[arm] for arm in ARMS])
        axes.set_xticks(RATES[cluster], [f"{rate:g}" for rate in RATES[cluster]], size=7, rotation=60)
        axes.set_xlim(0, RATES[cluster][-1] * 1.04)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        rules(axes)
        axes.set_title(" ".join(CLUSTERS[cluster]))
        axes.set_xlabel("agents per second")
    grid[0][1].set_yticklabels([])
    drawing.tight_layout()
    return finish(
        drawing,
        "fig10-capacity",
        "Agents per second within the SLO",
        "Thick bars: the 64K set; thin, pale bars: the 48K set; rings: the paper. Grid lines are the rates that were "
        "run. An arrow: no rate that was run failed.",
    )


def capacities(results: Results) -> Table:
    known = theirs_of(results)
    rows = []
    for cluster in RATES:
        for arm in ARMS:
            row = [CLUSTERS[cluster][0], arm, number(known.get((cluster, arm)))]
            for max_len in SETS:
                found = capacity(results, cluster, max_len, arm)
                row.append(_shown(found))
                for baseline in ("basic", "layerwise"):
                    base = capacity(results, cluster, max_len, baseline).rate_per_s
                    row.append(number(found.rate_per_s / base) if found.rate_per_s and base else NONE)
            rows.append(row)
    columns = ["model|", "system|", "theirs, agents/s"]
    for max_len in SETS:
        columns += [f"ours, {max_len.upper()}", "/ basic", "/ layerwise"]
    note = "The largest rate of the grid such that it and all smaller ones keep TTFT <= 4 s and TPOT <= 50 ms."
    return table("Capacity", columns, rows, note)


def _shown(found: Capacity) -> str:
    return NONE if found.rate_per_s is None else f"{'≥ ' if found.is_least else ''}{found.rate_per_s:g}"
