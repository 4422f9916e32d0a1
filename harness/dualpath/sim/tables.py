"""Rows of a simulation as the tables of a run directory (`results/tables.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from dualpath.core.arms import Arm
from dualpath.core.cluster import Cluster
from dualpath.core.feed import Feed
from dualpath.results.tables import TABLES
from dualpath.sim.links import MODEL_TRAFFIC, ROUTES, Links, counter
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


def link_rows(cluster: Cluster, links: Links) -> Iterator[dict[str, Any]]:
    """Rows of the table `links`, those without bytes left out."""
    for resource_number, resource in enumerate(("snic", "dram", "cnic")):
        places: list[tuple[int, int | None]] = (
            [(node, None) for node in range(cluster.num_nodes)]
            if resource != "cnic"
            else [(cluster.node_of(engine), engine) for engine in range(cluster.num_engines)]
        )
        for node, engine in places:
            for is_write, direction in enumerate(("read", "write")):
                counted = counter(links, resource_number, node, engine or 0, is_write)
                for route, bucket in np.argwhere(links.num_bytes[counted]).tolist():
                    yield {
                        "resource": resource,
                        "node": node,
                        "engine": engine,
                        "direction": direction,
                        "route": "model" if route == MODEL_TRAFFIC else ROUTES[route],
                        "lane": "model" if route == MODEL_TRAFFIC else "kv",
                        "bucket_ns": bucket * int(links.bucket_ns[0]),
                        "bytes": int(links.num_bytes[counted, route, bucket]),
                        "busy_ns": int(links.busy_ns[counted, route, bucket]),
                    }


def _routes(rows: np.ndarray[Any, Any], arm: Arm) -> np.ndarray[Any, Any]:
    hit, decode = rows["hit_tokens"], rows["decode_side_tokens"]
    by_side = np.where(decode == 0, _PREFILL, np.where(decode == hit, _DECODE, _SPLIT))
    return np.where(hit == 0, _NO_ROUTE, by_side if arm.moves_kv else _SKIPPED)
