"""Links that contend: each serves its transfers one after the other, in the order in which they were started.

Model traffic has a lane of its own: while both lanes have work it gets 99 % of the rate and KV 1 %, else one lane gets
all of it (paper, section 4; the engine's pacer does the same). When KV will have passed is said once, when it starts:
model traffic that comes later delays the KV behind it, not the KV already promised.

A transfer that uses several links reserves each by itself and ends with the last one. What is charged where comes from
the hop table (`core/hops.py`). Bytes and busy time are counted in time buckets that double in width when a run
outgrows them.

Links and counters are numbered: storage NICs first (read, write), then DRAM (one half duplex link, two counters), then
compute NICs (read, write), each by node or engine.
"""

from __future__ import annotations

import numpy as np

from dualpath.core.arrays import Arrays
from dualpath.core.cluster import Cluster
from dualpath.core.compiled import compiled
from dualpath.core.hops import HOPS, STAGES
from dualpath.core.records import Floats, Integers

ROUTES = ("prefill", "decode", "miss", "persist")
ROUTE_PREFILL, ROUTE_DECODE, ROUTE_MISS, ROUTE_PERSIST, MODEL_TRAFFIC = range(5)
MODEL_SHARE_PERCENT = 99
SNIC, DRAM, CNIC = range(3)
_RESOURCES = ("snic", "dram", "cnic")
_COUNTED = 2 << 20  # cells to count in: bounds memory, and so the number of buckets


class Links(Arrays):
    shape: Integers  # [2] num_nodes, num_engines
    hops: Integers  # [num_stages, most hops, 3] of the hop table: is_prefill, resource, is_write; -1: no hop
    num_hops: Integers  # [num_stages]
    ns_per_byte: Floats  # [3] by resource; 0 where native
    ns_per_block: Floats  # [3] what a Full Block costs a storage NIC beside its bytes
    free_ns: Integers  # [num_counters] when a link has served all KV that was given to it (DRAM: its read counter's)
    model_free_ns: Integers  # the same, for model traffic
    bucket_ns: Integers  # [1]
    num_bytes: Integers  # [num_buckets, num_counters, num_routes + 1]; the last route: model traffic
    busy_ns: Integers  # the same


def new_links(cluster: Cluster, dram_bytes_per_s: float, snic_ns_per_block: float, bucket_ns: int) -> Links:
    hops = np.full((len(STAGES), max(map(len, HOPS.values())), 3), -1, np.int64)
    for number, stage in enumerate(STAGES):
        for place, hop in enumerate(HOPS[stage]):
            hops[number, place] = hop.role == "prefill", _RESOURCES.index(hop.resource), hop.direction == "write"
    num_counters = 4 * cluster.num_nodes + 2 * cluster.num_engines
    rates = (cluster.snic_bytes_per_s, dram_bytes_per_s, cluster.cnic_bytes_per_s)
    buckets = 128
    while buckets < 4096 and 2 * buckets * num_counters * (len(ROUTES) + 1) <= _COUNTED:
        buckets *= 2
    cells = (buckets, num_counters, len(ROUTES) + 1)  # buckets first: what is counted at one time lies together
    return Links(
        shape=np.array([cluster.num_nodes, cluster.num_engines]),
        hops=hops,
        num_hops=np.array([len(HOPS[stage]) for stage in STAGES]),
        ns_per_byte=np.array([1e9 / rate if rate else 0.0 for rate in rates]),
        ns_per_block=np.array([snic_ns_per_block, 0.0, 0.0]),
        free_ns=np.zeros(num_counters, np.int64),
        model_free_ns=np.zeros(num_counters, np.int64),
        bucket_ns=np.array([bucket_ns]),
        num_bytes=np.zeros(cells, np.int64),
        busy_ns=np.zeros(cells, np.int64),
    )


@compiled
def counter(links: Links, resource: int, node: int, engine: int, is_write: int) -> int:
    num_nodes, num_engines = links.shape[0], links.shape[1]
    if resource == CNIC:
        return 4 * num_nodes + is_write * num_engines + engine
    return (2 * resource + is_write) * num_nodes + node


@compiled
def carry(
    links: Links,
    stage: int,
    route: int,
    prefill_node: int,
    prefill_engine: int,
    decode_node: int,
    decode_engine: int,
    num_bytes: int,
    num_blocks: float,
    at_ns: int,
) -> int:
    """Start one movement of the hop table at at_ns; returns when its last link has served it."""
    end_ns = at_ns
    for place in range(links.num_hops[stage]):
        is_prefill, resource, is_write = links.hops[stage, place]
        node = prefill_node if is_prefill else decode_node
        engine = prefill_engine if is_prefill else decode_engine
        end_ns = max(end_ns, serve(links, resource, node, engine, is_write, route, num_bytes, num_blocks, at_ns))
    return end_ns


@compiled
def serve(
    links: Links,
    resource: int,
    node: int,
    engine: int,
    is_write: int,
    route: int,
    num_bytes: int,
    num_blocks: float,
    at_ns: int,
) -> int:
    """One link serves one transfer after what its lane was given before; returns when it is done."""
    counted = counter(links, resource, node, engine, is_write)
    link = counter(links, resource, node, engine, 0) if resource == DRAM else counted
    work_ns = int(num_bytes * links.ns_per_byte[resource] + num_blocks * links.ns_per_block[resource])
    if route == MODEL_TRAFFIC:
        start_ns = max(at_ns, links.model_free_ns[link])
        kv_ns = max(0, links.free_ns[link] - start_ns)
        end_ns = start_ns + min(work_ns * 100 // MODEL_SHARE_PERCENT, work_ns + kv_ns)
        links.model_free_ns[link] = end_ns
        if kv_ns:
            links.free_ns[link] += work_ns
    else:
        start_ns = max(at_ns, links.free_ns[link])
        model_ns = max(0, links.model_free_ns[link] - start_ns)
        end_ns = start_ns + min(work_ns * 100 // (100 - MODEL_SHARE_PERCENT), work_ns + model_ns)
        links.free_ns[link] = end_ns
    _count(links, counted, route, num_bytes, start_ns, end_ns)
    return end_ns


@compiled
def _count(links: Links, counted: int, route: int, num_bytes: int, start_ns: int, end_ns: int) -> None:
    """Spread bytes over the buckets of [start_ns, end_ns) in proportion, exactly in sum."""
    num_buckets = links.num_bytes.shape[0]
    while end_ns >= links.bucket_ns[0] * num_buckets:
        _double(links)
    width_ns = links.bucket_ns[0]
    bucket, last = start_ns // width_ns, end_ns // width_ns
    spent, begin_ns = 0, start_ns
    while bucket < last:
        until_ns = (bucket + 1) * width_ns
        share = int(num_bytes * ((until_ns - start_ns) / (end_ns - start_ns))) - spent
        links.num_bytes[bucket, counted, route] += share
        links.busy_ns[bucket, counted, route] += until_ns - begin_ns
        spent, begin_ns, bucket = spent + share, until_ns, bucket + 1
    links.num_bytes[bucket, counted, route] += num_bytes - spent
    links.busy_ns[bucket, counted, route] += end_ns - begin_ns


@compiled
def _double(links: Links) -> None:
    """Make buckets twice as wide."""
    links.bucket_ns[0] *= 2
    num_buckets, num_counters, num_routes = links.num_bytes.shape
    for bucket in range(num_buckets):
        for counted in range(num_counters):
            for route in range(num_routes):
                num_bytes, busy_ns = 0, 0
                for old in range(2 * bucket, min(2 * bucket + 2, num_buckets)):
                    num_bytes += links.num_bytes[old, counted, route]
                    busy_ns += links.busy_ns[old, counted, route]
                links.num_bytes[bucket, counted, route] = num_bytes
                links.busy_ns[bucket, counted, route] = busy_ns
