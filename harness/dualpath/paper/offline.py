"""What Figs 7, 8, 9 and 12 have in common: job completion times of offline cells beside the paper's bars."""

from __future__ import annotations

from collections.abc import Mapping

from dualpath.paper.cells import CLUSTERS, Cell
from dualpath.paper.fit import is_fit_jct
from dualpath.paper.numbers import Number, belief_of
from dualpath.paper.runs import Results

CLUSTER_OF = {names: cluster for cluster, names in CLUSTERS.items()}  # (model, nodes) as in the CSV files


def label(cell: Cell) -> str:
    """For a row of a table: DS 660B 2P4D 64k, 1,024 agents, basic."""
    model, nodes = CLUSTERS[cell.cluster]
    load = f"{cell.agents:,} agents" if cell.rate_per_s is None else f"{cell.rate_per_s:g} agents/s"
    scaled = [
        f"{word} x {float(factor):g}"
        for word, factor in (("append", cell.append_factor), ("generate", cell.generate_factor))
        if factor != 1
    ]
    return ", ".join((f"{model} {nodes} {cell.max_len.upper()}", load, *scaled, cell.arm))


def jct_number(
    results: Results, id: str, cell: Cell, theirs_s: float, tolerance: float, beliefs: Mapping[str, str]
) -> Number:
    return Number(
        id=id,
        what=f"JCT, {label(cell)}",
        ours=results.jct_s(cell),
        theirs=theirs_s,
        tolerance=tolerance,
        is_fit=is_fit_jct(cell),
        note=results.why_not(cell),
        rows=results.rows(cell),
        belief=belief_of(id, beliefs),
    )


def speed_up(results: Results, slower: Cell, faster: Cell) -> float | None:
    """JCT of the one over that of the other."""
    long_s, short_s = results.jct_s(slower), results.jct_s(faster)
    return None if long_s is None or short_s is None else long_s / short_s


def ratio_number(
    results: Results,
    id: str,
    slower: Cell,
    faster: Cell,
    theirs: float,
    tolerance: float,
    beliefs: Mapping[str, str],
) -> Number:
    """Of two JCTs."""
    return Number(
        id=id,
        what=f"{slower.arm} / {faster.arm}, {label(faster).rpartition(',')[0]}",
        ours=speed_up(results, slower, faster),
        theirs=theirs,
        tolerance=tolerance,
        unit="x",
        is_fit=is_fit_jct(slower) or is_fit_jct(faster),
        note=results.why_not(slower, faster),
        rows=results.rows(slower, faster),
        belief=belief_of(id, beliefs),
    )
