"""Load of each kind of link in units of what a storage NIC reads: by the paper's formulas (section 4.2), by the hop
table, and as a simulated run's links counted it."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction
from typing import NamedTuple

import polars as pl

from dualpath.core.cluster import Cluster, Constants, Memory, Nodes
from dualpath.core.hops import Route, Stage, charges
from dualpath.core.known_models import MODELS
from dualpath.results.run import Run
from dualpath.results.steady import Window

Kind = str  # as in hop_formulas.csv
KINDS: tuple[Kind, ...] = ("PE CNIC read", "PE CNIC write", "DE CNIC read", "DE CNIC write", "PE DRAM", "DE DRAM")
_STAGES: dict[Route, tuple[Stage, ...]] = {  # of hit KV
    "prefill": ("read-prefill", "load-prefill", "forward", "start"),
    "decode": ("read-decode", "load-decode", "start"),
}


def formulas(
    p: int, d: int, g: int, prefill: Fraction | float = 1, decode: Fraction | float = 1
) -> dict[Kind, Fraction]:
    """Section 4.2, pairs balanced. prefill, decode: what a storage NIC of a node of each side reads; the paper's
    premise is that every node reads with all of it. Exact where these are integers or fractions."""
    by_prefill, by_decode = p * Fraction(prefill), d * Fraction(decode)  # read on each side in all
    return {
        "PE CNIC read": 2 * by_prefill / (p * g),
        "PE CNIC write": (by_prefill + by_decode) / (p * g),
        "DE CNIC read": (by_prefill + 2 * by_decode) / (d * g),
        "DE CNIC write": (2 * by_prefill + by_decode) / (d * g),
        "PE DRAM": 2 * by_prefill / p,
        "DE DRAM": (2 * by_prefill + 3 * by_decode) / d,
    }


def of_table(p: int, d: int, g: int) -> dict[Kind, set[Fraction]]:
    """The same from the hop table that the engine and the simulator charge: the loads of all links of a kind."""
    cluster = Cluster(
        "any", MODELS["ds-27b"], Nodes(p, g), Nodes(d, g), Memory(1, 1, 1, 1), None, None, Constants()
    )  # fmt: skip
    traffic: dict[Route, Fraction] = {"prefill": Fraction(1, d * g * g), "decode": Fraction(1, p * g * g)}
    load: defaultdict[tuple[Kind, int], Fraction] = defaultdict(Fraction)
    for prefill in range(cluster.num_prefill):
        for decode in range(cluster.num_prefill, cluster.num_engines):
            for route, stages in _STAGES.items():
                for charge in (each for stage in stages for each in charges(cluster, stage, route, prefill, decode)):
                    side = "PE" if charge.node < p else "DE"
                    if charge.engine is not None:
                        load[f"{side} CNIC {charge.direction}", charge.engine] += traffic[route]
                    elif charge.resource == "dram":
                        load[f"{side} DRAM", charge.node] += traffic[route]
    return {kind: {value for (of, _), value in load.items() if of == kind} for kind in KINDS}


class Counted(NamedTuple):
    """Loads of a run, mean over the links of a kind."""

    prefill: float  # what a prefill node's storage NIC read
    decode: float
    hits: dict[Kind, float]  # hit KV alone: what the formulas are about
    everything: dict[Kind, float]  # with new KV and what is persisted, which they leave out


def of_run(run: Run) -> Counted:
    """In units of the bytes that a node's storage NIC read, mean over nodes, over the whole run."""
    counted = _by_kind(run, pl.col("bytes"))
    reads = {side: _amount(counted.filter(pl.col("kind") == f"{side} SNIC read")) for side in ("PE", "DE")}
    read_bytes = sum(reads.values()) / run.num_nodes
    hits = counted.filter(pl.col("route").is_in(["prefill", "decode"]))
    links = _links(run)
    loads = [
        {kind: _amount(rows.filter(pl.col("kind") == kind)) / links[kind] / read_bytes for kind in KINDS}
        for rows in (hits, counted)
    ]
    return Counted(
        prefill=reads["PE"] / run.cluster.prefill.nodes / read_bytes,
        decode=reads["DE"] / run.cluster.decode.nodes / read_bytes,
        hits=loads[0],
        everything=loads[1],
    )


def _amount(rows: pl.DataFrame) -> float:
    return float(rows.select(pl.col("amount").sum()).item())


def busy(run: Run, window: Window) -> dict[Kind, float]:
    """Share of the window in which the links of a kind were serving, mean over them; storage NICs' reads as well."""
    width_ns = run.manifest.bucket_ns
    inside = (pl.col("bucket_ns") >= window.start_ns) & (pl.col("bucket_ns") + width_ns <= window.end_ns)
    counted = _by_kind(run, pl.col("busy_ns"), inside).group_by("kind").agg(pl.col("amount").sum())
    buckets = window.end_ns // width_ns - -(-window.start_ns // width_ns)
    amounts = dict(counted.iter_rows())
    return {kind: amounts.get(kind, 0) / links / (buckets * width_ns) for kind, links in _links(run).items()}


def _by_kind(run: Run, amount: pl.Expr, inside: pl.Expr | None = None) -> pl.DataFrame:
    """kind, route, amount."""
    side = pl.when(pl.col("node") < run.cluster.prefill.nodes).then(pl.lit("PE ")).otherwise(pl.lit("DE "))
    resource = pl.col("resource").str.to_uppercase()
    half_duplex = pl.when(pl.col("resource") == "dram").then(pl.lit("")).otherwise(" " + pl.col("direction"))
    rows = run.links if inside is None else run.links.filter(inside)
    return (
        rows.with_columns(kind=side + resource + half_duplex)
        .group_by("kind", "route")
        .agg(amount.sum().alias("amount"))
        .collect()
    )


def _links(run: Run) -> dict[Kind, int]:
    """How many links there are of a kind."""
    sides = {"PE": run.cluster.prefill, "DE": run.cluster.decode}
    found: dict[Kind, int] = {}
    for side, nodes in sides.items():
        found[f"{side} SNIC read"] = found[f"{side} DRAM"] = nodes.nodes
        for direction in ("read", "write"):
            found[f"{side} CNIC {direction}"] = nodes.nodes * nodes.engines_per_node
    return found
