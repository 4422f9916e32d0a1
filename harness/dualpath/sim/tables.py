"""Rows of a simulation as the tables of a run directory (`results/tables.py`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dualpath.core.arms import Arm
from dualpath.core.cluster import Cluster
from dualpath.core.feed import Feed
from dualpath.results.tables import TABLES
from dualpath.sim.links import MODEL_TRAFFIC, ROUTES, Links
from dualpath.sim.parts import Parts

_ROUTE_NAMES = pa.array(["none", "skipped", "prefill", "decode", "split"])
_NO_ROUTE, _SKIPPED, _PREFILL, _DECODE, _SPLIT = range(5)


def turn_table(rows: np.ndarray[Any, Any], feed: Feed, arm: Arm, *, ended: bool = True) -> pa.Table:
    """TURN_ROWs, whose trajectories the feed still knows, as the table `turns`."""
    numbers, place = np.unique(rows["trajectory"], return_inverse=True)
    ids = pa.array([feed.trajectory(number).id for number in numbers.tolist()], pa.string())
    columns: dict[str, Any] = {
        "trajectory": ids.take(pa.array(place, pa.int64())),
        "miss_tokens": pa.array(rows["prompt_tokens"] - rows["hit_tokens"]),
        "route": _ROUTE_NAMES.take(pa.array(_routes(rows, arm))),
        "output_hash": pa.nulls(len(rows), pa.uint64()),
        "status": pa.repeat("ok" if ended else "unfinished", len(rows)),
        "error": pa.nulls(len(rows), pa.string())
        if ended
        else pa.repeat("the run ended before this turn did", len(rows)),
    }
    for name in TABLES["turns"].names:
        if name not in columns:
            columns[name] = pa.array(rows[name], mask=rows[name] < 0)
    schema = TABLES["turns"]
    return pa.Table.from_arrays([columns[name].cast(schema.field(name).type) for name in schema.names], schema=schema)


def unfinished_rows(parts: Parts) -> np.ndarray[Any, Any]:
    """TURN_ROWs of the requests that are under way."""
    state = parts.state
    under_way = np.ones(len(parts.marks), bool)
    under_way[state.free[: state.counts[0].num_free]] = False
    rows: np.ndarray[Any, Any] = parts.marks[under_way].copy()
    rows["persisted_ns"] = -1
    return np.sort(rows, order="request")


def pass_table(rows: np.ndarray[Any, Any]) -> pa.Table:
    schema = TABLES["passes"]
    return pa.Table.from_arrays(
        [pa.array(rows[name]).cast(schema.field(name).type) for name in schema.names], schema=schema
    )


def link_table(cluster: Cluster, links: Links) -> pa.Table:
    """The table `links`; cells without bytes are left out."""
    schema = TABLES["links"]
    bucket, counted, route = np.nonzero(links.num_bytes)
    order = np.lexsort((bucket, route, counted))
    bucket, counted, route = bucket[order], counted[order], route[order]
    places = _places(cluster)
    node, engine = (np.array(column, np.int64) for column in list(zip(*places, strict=True))[:2])
    resource, direction = (pa.array(column) for column in list(zip(*places, strict=True))[2:])
    is_model = pa.array(route == MODEL_TRAFFIC)
    columns = {
        "resource": resource.take(pa.array(counted, pa.int64())),
        "node": pa.array(node[counted]),
        "engine": pa.array(engine[counted], mask=engine[counted] < 0),
        "direction": direction.take(pa.array(counted, pa.int64())),
        "route": pa.array([*ROUTES, "model"]).take(pa.array(route, pa.int64())),
        "lane": pc.if_else(is_model, "model", "kv"),
        "bucket_ns": pa.array(bucket * int(links.bucket_ns[0])),
        "bytes": pa.array(links.num_bytes[bucket, counted, route]),
        "busy_ns": pa.array(links.busy_ns[bucket, counted, route]),
    }
    return pa.Table.from_arrays([columns[name].cast(schema.field(name).type) for name in schema.names], schema=schema)


def _places(cluster: Cluster) -> list[tuple[int, int, str, str]]:
    """Node, engine (-1: the node's), resource and direction of each counter, in the order of `links.counter`."""
    nodes, engines = range(cluster.num_nodes), range(cluster.num_engines)
    shared = [
        (node, -1, resource, direction)
        for resource in ("snic", "dram")
        for direction in ("read", "write")
        for node in nodes
    ]
    own = [
        (cluster.node_of(engine), engine, "cnic", direction) for direction in ("read", "write") for engine in engines
    ]
    return shared + own


def _routes(rows: np.ndarray[Any, Any], arm: Arm) -> np.ndarray[Any, Any]:
    hit, decode = rows["hit_tokens"], rows["decode_side_tokens"]
    by_side = np.where(decode == 0, _PREFILL, np.where(decode == hit, _DECODE, _SPLIT))
    return np.where(hit == 0, _NO_ROUTE, by_side if arm.moves_kv else _SKIPPED)
