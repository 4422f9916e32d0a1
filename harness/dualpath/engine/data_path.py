"""Performing a stage of the hop table: take the links, move the bytes, count them, be done when the links are.

Every byte of KV an engine moves goes through here, so what is paced and counted is what `core/hops.py` says.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from dualpath.core.cluster import Cluster
from dualpath.core.hops import Charge, Route, Stage, charges
from dualpath.engine.meter import Meter
from dualpath.engine.pacer import Pacer


def link_rates(cluster: Cluster) -> list[float | None]:
    """Rates of all links, by index: SNIC read and write of each node, then CNIC read and write of each engine.
    DRAM is counted, not paced."""
    snics = [cluster.snic_bytes_per_s] * (2 * cluster.num_nodes)
    cnics = [cluster.cnic_bytes_per_s] * (2 * cluster.num_engines)
    return snics + cnics


def link_of(cluster: Cluster, charge: Charge) -> int | None:
    """Index of the link that carries a charge; None for DRAM."""
    write = 1 if charge.direction == "write" else 0
    if charge.resource == "snic":
        return 2 * charge.node + write
    if charge.resource == "cnic":
        assert charge.engine is not None
        return 2 * cluster.num_nodes + 2 * charge.engine + write
    return None


class DataPath:
    """One engine's access to the links. Thread-safe."""

    def __init__(self, cluster: Cluster, pacer: Pacer, meter: Meter) -> None:
        self._cluster = cluster
        self._pacer = pacer
        self._meter = meter
        self.zero_ns = 0  # of the run's clock; set once, before the first move

    def move(
        self,
        stage: Stage,
        route: Route,
        tokens: int,
        layers: int,
        prefill_engine: int,
        decode_engine: int,
        copy: Callable[[], None],
    ) -> None:
        """Move `tokens` tokens' KV of `layers` layers; returns when the bytes are there and every link let them
        pass. `copy` does the moving. Keep it to about a millisecond of the link, so that others get their turn."""
        num_bytes = tokens * layers * self._cluster.model.kv_layer_bytes
        hops = list(charges(self._cluster, stage, route, prefill_engine, decode_engine))
        links = [link_of(self._cluster, charge) for charge in hops]
        now_ns = time.monotonic_ns()
        paced = [link for link in links if link is not None]
        reservations = self._pacer.reserve_all(paced, num_bytes, "kv", now_ns)
        copy()
        self._pacer.wait(*reservations)
        ended_ns = time.monotonic_ns()
        by_link = {reservation.link: reservation for reservation in reservations}
        for charge, link in zip(hops, links, strict=True):
            if link is None or self._pacer.rate(link) is None:
                span = (now_ns, ended_ns)
            else:
                span = (by_link[link].start_ns, by_link[link].end_ns)
            is_paced = link is not None and self._pacer.rate(link) is not None
            self._meter.add(charge, "kv", num_bytes, span[0] - self.zero_ns, span[1] - self.zero_ns, is_paced)
