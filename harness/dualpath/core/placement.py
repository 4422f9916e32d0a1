"""Which prefill and decode engine serve a request (paper 5.2, 5.3).

Both placements have one method: `place(load)` assigns what can be assigned now and returns the requests that
now have both engines, in order.
"""

from __future__ import annotations

from collections import deque

from dualpath.core.cluster import Cluster
from dualpath.core.flight import Flight, Load


class RoundRobinPlacement:
    """Engines in turn, first come first served; a request waits at the head until its DE has HBM for it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._queue: deque[Flight] = deque()
        self._next_prefill = 0
        self._next_decode = 0

    def enqueue(self, flight: Flight) -> None:
        self._queue.append(flight)

    def place(self, load: Load) -> list[Flight]:
        cluster = self._cluster
        placed: list[Flight] = []
        while self._queue:
            flight = self._queue[0]
            decode_engine = cluster.num_prefill + self._next_decode
            if not load.hbm(decode_engine).fits(cluster.blocks(flight.total_tokens)):
                break
            load.take_prefill(flight, self._next_prefill)
            load.take_decode(flight, decode_engine)
            self._next_prefill = (self._next_prefill + 1) % cluster.num_prefill
            self._next_decode = (self._next_decode + 1) % cluster.num_decode
            placed.append(self._queue.popleft())
        return placed


class AdaptivePlacement:
    """The paper's Algorithm 1 for PEs and its two phases for DEs.

    The paper lets engine groups fetch periodically and does not give the period; here all groups fetch at every
    event, together, so that Algorithm 1 picks among the engines of all PE groups at once.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._prefill_queue: deque[Flight] = deque()  # global, FIFO
        self._decode_queue: deque[Flight] = deque()  # global
        self._group_queues: list[deque[Flight]] = [deque() for _ in range(cluster.decode.nodes)]
        self._groups = [
            [engine for engine in range(cluster.num_prefill, cluster.num_engines) if cluster.node_of(engine) == node]
            for node in range(cluster.prefill.nodes, cluster.num_nodes)
        ]
        self._placed: list[Flight] = []

    def enqueue(self, flight: Flight) -> None:
        self._prefill_queue.append(flight)
        self._decode_queue.append(flight)

    def place(self, load: Load) -> list[Flight]:
        self._place_prefill(load)
        self._share_among_groups(load)
        for group, queue in zip(self._groups, self._group_queues, strict=True):
            self._place_in_group(load, group, queue)
        placed, self._placed = self._placed, []
        return placed

    def _place_prefill(self, load: Load) -> None:
        """Algorithm 1: the engine with the fewest tokens among those whose node has a short disk queue (C2),
        else among the others that are not overloaded (C3), else wait."""
        cluster, constants = self._cluster, self._cluster.constants
        alpha_blocks = constants.alpha_tokens // cluster.block_tokens
        while self._prefill_queue:
            best, best_key = -1, (True, 0)
            for engine in range(cluster.num_prefill):
                if load.tokens[engine] > constants.beta_tokens:
                    continue
                long_queue = load.read_queue_blocks[cluster.node_of(engine)] > alpha_blocks
                key = (long_queue, load.tokens[engine])
                if best < 0 or key < best_key:
                    best, best_key = engine, key
            if best < 0:
                return
            flight = self._prefill_queue.popleft()
            load.take_prefill(flight, best)
            if flight.assigned:
                self._placed.append(flight)

    def _share_among_groups(self, load: Load) -> None:
        """DE phase 1: each request joins the private queue of the group with the fewest tokens. A request that
        waits in a private queue counts as its group's, or one event could send every request the same way."""
        if not self._decode_queue:
            return
        sums = [
            sum(load.tokens[engine] for engine in group) + sum(flight.total_tokens for flight in queue)
            for group, queue in zip(self._groups, self._group_queues, strict=True)
        ]
        while self._decode_queue:
            flight = self._decode_queue.popleft()
            group = sums.index(min(sums))
            sums[group] += flight.total_tokens
            self._group_queues[group].append(flight)

    def _place_in_group(self, load: Load, group: list[int], queue: deque[Flight]) -> None:
        """DE phase 2: fewest requests among engines that stay under the threshold Z, else fewest tokens."""
        if not queue:
            return
        cluster = self._cluster
        free_blocks = sum(load.hbm(engine).free for engine in group)
        prefix_tokens = 0
        for flight in queue:
            free_blocks -= cluster.blocks(flight.total_tokens)
            if free_blocks < 0:
                break
            prefix_tokens += flight.total_tokens
        held_tokens = sum(load.tokens[engine] for engine in group)
        threshold = cluster.constants.z_factor * (prefix_tokens + held_tokens) / len(group)
        while queue:
            flight = queue[0]
            need_blocks = cluster.blocks(flight.total_tokens)
            fitting = [engine for engine in group if load.hbm(engine).fits(need_blocks)]
            if not fitting:
                return
            low = [engine for engine in fitting if load.tokens[engine] + flight.total_tokens <= threshold]
            if low:
                chosen = min(low, key=lambda engine: (load.requests[engine], load.tokens[engine], engine))
            else:
                chosen = min(fitting, key=lambda engine: (load.tokens[engine], engine))
            queue.popleft()
            load.take_decode(flight, chosen)
            if flight.assigned:
                self._placed.append(flight)
