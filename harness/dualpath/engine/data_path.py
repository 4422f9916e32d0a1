"""Performing a stage of the hop table: take the links, move the bytes, count them, be done when the links are.

Every byte of KV an engine moves goes through here, so what is paced and counted is what `core/hops.py` says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dualpath.core.cluster import Cluster
from dualpath.core.hops import Charge, Direction, Route, Stage, charges
from dualpath.engine.completion import Completion
from dualpath.engine.meter import Meter
from dualpath.engine.pacer import Lane, Pacer, Reservation


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

    def post(
        self,
        stage: Stage,
        route: Route,
        tokens: int,
        layers: int,
        prefill_engine: int,
        decode_engine: int,
        copy: Callable[[], Completion],
    ) -> Move:
        """Begin to move `tokens` tokens' KV of `layers` layers. `copy` begins the moving; the bytes
        that its completion says have moved are counted. The move is done when its links have let them pass, too. Post
        several before waiting for the first: a link idles while nobody has reserved it."""
        num_bytes = tokens * layers * self._cluster.model.kv_layer_bytes
        return self._begin(charges(self._cluster, stage, route, prefill_engine, decode_engine), num_bytes, "kv", copy)

    def exchange(self, num_bytes: int, engines: tuple[int, int], copy: Callable[[], Completion]) -> None:
        """Move model traffic from one engine to another, and wait for it."""
        sides: tuple[tuple[int, Direction], ...] = ((engines[0], "read"), (engines[1], "write"))
        hops = [Charge("cnic", self._cluster.node_of(engine), engine, side, "model") for engine, side in sides]
        self._begin(hops, num_bytes, "model", copy).wait()

    def _begin(self, hops: Iterable[Charge], num_bytes: int, lane: Lane, copy: Callable[[], Completion]) -> Move:
        hops = list(hops)
        links = [link_of(self._cluster, charge) for charge in hops]
        posted_ns = time.monotonic_ns()
        reservations = self._pacer.reserve_all([link for link in links if link is not None], num_bytes, lane, posted_ns)
        return Move(self, hops, links, lane, reservations, copy(), posted_ns)

    def move(
        self,
        stage: Stage,
        route: Route,
        tokens: int,
        layers: int,
        prefill_engine: int,
        decode_engine: int,
        copy: Callable[[], Completion],
    ) -> None:
        """Post one move and wait for it."""
        self.post(stage, route, tokens, layers, prefill_engine, decode_engine, copy).wait()

    def complete(self, move: Move) -> None:
        """Wait until the bytes have moved and every link let them pass, then count them."""
        num_bytes = move.completion.wait()
        self._pacer.wait(*move.reservations)
        span_ns = {
            reservation.link: (reservation.start_ns, reservation.end_ns)
            for reservation in move.reservations
            if self._pacer.rate(reservation.link) is not None
        }
        unpaced = (move.posted_ns, time.monotonic_ns())
        for charge, link in zip(move.hops, move.links, strict=True):
            paced = link in span_ns
            start_ns, end_ns = span_ns[link] if link is not None and paced else unpaced
            self._meter.add(charge, move.lane, num_bytes, start_ns - self.zero_ns, end_ns - self.zero_ns, paced)


@dataclass(frozen=True, slots=True)
class Move:
    """Bytes on their way."""

    path: DataPath
    hops: list[Charge]
    links: list[int | None]  # by hop
    lane: Lane
    reservations: list[Reservation]
    completion: Completion  # of the bytes
    posted_ns: int

    def wait(self) -> None:
        self.path.complete(self)
