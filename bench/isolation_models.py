"""The same probes and flood as isolation_verbs.py, through what stands in for a link elsewhere in this suite: the pacer
that the real engine's processes share, and the simulator's links in virtual time. Prints raw rows as JSON.

    python bench/isolation_models.py > rows.jsonl
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dualpath.cluster_file import load_cluster
from dualpath.engine.pacer import Lane, Pacer
from dualpath.isolation import (
    FLOOD_BYTES,
    FLOOD_DEPTH,
    GAP_S,
    LINK_MBIT,
    MODEL_CASES,
    PROBE_BYTES,
    PROBES,
    REPEATS,
    SETTLE_S,
    probe_rows,
    setting,
)
from dualpath.sim.links import CNIC, MODEL_TRAFFIC, ROUTE_MISS, Links, new_links, serve

RATE_BYTES_PER_S = LINK_MBIT * 1e6 / 8


def paced(probe: Lane, flood: Lane | None) -> tuple[list[int], float]:
    """(latencies in ns, MB/s of the flood): processes of this machine, real time."""
    pacer = Pacer.create([RATE_BYTES_PER_S])
    flooder = os.fork() if flood else 0
    if flood and not flooder:
        under_way = deque(pacer.reserve(0, FLOOD_BYTES, flood, time.monotonic_ns()) for _ in range(FLOOD_DEPTH))
        while True:
            pacer.wait(under_way.popleft())
            under_way.append(pacer.reserve(0, FLOOD_BYTES, flood, time.monotonic_ns()))
    time.sleep(SETTLE_S)
    before, latencies_ns, started_s = pacer.state(0, time.monotonic_ns()), [], time.monotonic()
    for _ in range(PROBES):
        time.sleep(GAP_S)
        started_ns = time.monotonic_ns()
        pacer.wait(pacer.reserve(0, PROBE_BYTES, probe, started_ns))
        latencies_ns.append(time.monotonic_ns() - started_ns)
    after, seconds = pacer.state(0, time.monotonic_ns()), time.monotonic() - started_s
    if flooder:
        os.kill(flooder, signal.SIGKILL)
        os.waitpid(flooder, 0)
    pacer.close()
    served = after.kv_served + after.model_served - before.kv_served - before.model_served
    flooded = served / 1e9 - PROBES * PROBE_BYTES if flood else 0.0
    return latencies_ns, flooded / seconds / 1e6


def simulated(probe: Lane, flood: Lane | None) -> tuple[list[int], float]:
    """The same in virtual time."""
    cluster = load_cluster(Path(__file__).parent / "clusters" / "cpu-1p1d.toml").cluster
    links = new_links(dataclasses.replace(cluster, cnic_bytes_per_s=RATE_BYTES_PER_S), 1e9, 0.0, 100_000_000)
    latencies_ns: list[int] = []
    under_way = deque(carry(links, flood, FLOOD_BYTES, 0) for _ in range(FLOOD_DEPTH)) if flood else deque()
    now_ns = flooded = 0
    for number in range(PROBES + 1):
        now_ns += int(GAP_S * 1e9) if number else int(SETTLE_S * 1e9)
        while flood and under_way[0] <= now_ns:
            under_way.append(carry(links, flood, FLOOD_BYTES, under_way.popleft()))
            flooded += FLOOD_BYTES
        if number:
            end_ns = carry(links, probe, PROBE_BYTES, now_ns)
            latencies_ns.append(end_ns - now_ns)
            now_ns = end_ns
    return latencies_ns, flooded / (now_ns / 1e9) / 1e6


def carry(links: Links, lane: Lane, num_bytes: int, at_ns: int) -> int:
    return serve(links, CNIC, 0, 0, 1, MODEL_TRAFFIC if lane == "model" else ROUTE_MISS, num_bytes, 0.0, at_ns)


def rows() -> Iterator[dict[str, Any]]:
    yield {**setting(), "by": "models"}
    for repeat in range(REPEATS):
        for case in MODEL_CASES:
            yield from probe_rows("pacer", case, repeat, *paced("model", case.flood_lane))
            if not repeat:  # virtual time has no noise to repeat for
                yield from probe_rows("simulator", case, repeat, *simulated("model", case.flood_lane))


def main() -> int:
    for row in rows():
        print(json.dumps(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
