"""The paper's Algorithm 1 and its two phases for DEs (5.2, 5.3), line by line: slow, literal, on its own state.

Where it departs from the letter, as the code does and on purpose:
- The paper's groups fetch one by one, at a period it does not give. Here the PE groups fetch together, when a request
  comes and when one leaves a PE. A DE group runs phase 2 when phase 1 sends it a request, before phase 1 goes on to the
  next one, and when a request leaves one of its engines; nothing else could change what it does with its queue.
- DE phase 1 counts requests that wait in a group's private queue as the group's, the paper's text only `tok_e`.
- Ties, which the paper leaves open: lowest engine number; in DE phase 2 fewest requests, then fewest tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import books
from dualpath.core.cluster import Cluster
from dualpath.core.state import State


@dataclass(eq=False)
class Request:
    flight: int
    prompt_tokens: int
    total_tokens: int
    need: int  # blocks of HBM
    prefill_engine: int = -1
    decode_engine: int = -1


@dataclass(eq=False)
class Engine:
    number: int
    node: int
    tok: int = 0
    seq: int = 0
    free_hbm: int = 0


class Paper:
    """It starts from what a state's engines carry; afterwards it is told who comes and who leaves."""

    def __init__(self, cluster: Cluster, state: State) -> None:
        self.alpha, self.beta = cluster.constants.alpha_tokens, cluster.constants.beta_tokens
        self.z_factor = cluster.constants.z_factor
        self.read_q = [0] * cluster.num_nodes
        tok, seq, used = books.tokens(state), books.requests(state), books.hbm_used(state)
        engines = [Engine(e, cluster.node_of(e), tok[e], seq[e]) for e in range(cluster.num_engines)]
        self.engines, self.prefill = engines, engines[: cluster.num_prefill]
        for engine in engines[cluster.num_prefill :]:
            engine.free_hbm = cluster.memory.decode_hbm_bytes // cluster.block_bytes - used[engine.number]
        nodes = range(cluster.prefill.nodes, cluster.num_nodes)
        self.groups = {node: [engine for engine in engines if engine.node == node] for node in nodes}
        self.private: dict[int, list[Request]] = {node: [] for node in nodes}
        self.prefill_queue: list[Request] = []
        self.decode_queue: list[Request] = []
        self.placed: list[int] = []

    def fetch(self) -> None:
        self.algorithm_1()
        self.phase_1()

    def algorithm_1(self) -> None:
        while self.prefill_queue:
            not_overloaded = [e for e in self.prefill if e.tok <= self.beta]
            c2 = [e for e in not_overloaded if self.read_q[e.node] <= self.alpha]
            c3 = [e for e in not_overloaded if self.read_q[e.node] > self.alpha]
            if c2:
                chosen = min(c2, key=lambda e: e.tok)
            elif c3:
                chosen = min(c3, key=lambda e: e.tok)
            else:
                break
            request = self.prefill_queue.pop(0)
            request.prefill_engine = chosen.number
            chosen.tok += request.prompt_tokens
            chosen.seq += 1
            self.note_placed(request)

    def phase_1(self) -> None:
        for request in self.decode_queue:
            chosen = min(self.groups, key=self.group_tokens)
            self.private[chosen].append(request)
            self.phase_2(chosen)
        self.decode_queue = []

    def group_tokens(self, node: int) -> int:
        return sum(e.tok for e in self.groups[node]) + sum(request.total_tokens for request in self.private[node])

    def phase_2(self, node: int) -> None:
        group, private = self.groups[node], self.private[node]
        free = sum(e.free_hbm for e in group)
        fitting_prefix = 0
        while fitting_prefix < len(private) and sum(r.need for r in private[: fitting_prefix + 1]) <= free:
            fitting_prefix += 1
        prefix_tokens = sum(request.total_tokens for request in private[:fitting_prefix])
        z = self.z_factor * (prefix_tokens + sum(e.tok for e in group)) / len(group)
        while private:
            request = private[0]
            able = [e for e in group if e.free_hbm >= request.need]
            if not able:
                return
            low = [e for e in able if e.tok + request.total_tokens <= z]
            high = [e for e in able if e not in low]
            chosen = min(low, key=lambda e: (e.seq, e.tok)) if low else min(high, key=lambda e: e.tok)
            request.decode_engine = chosen.number
            chosen.tok += request.total_tokens
            chosen.seq += 1
            chosen.free_hbm -= request.need
            self.note_placed(private.pop(0))

    def note_placed(self, request: Request) -> None:
        if request.prefill_engine >= 0 and request.decode_engine >= 0:
            self.placed.append(request.flight)

    def leave_prefill(self, request: Request) -> None:
        engine = self.engines[request.prefill_engine]
        engine.tok -= request.prompt_tokens
        engine.seq -= 1
        self.algorithm_1()

    def leave_decode(self, request: Request) -> None:
        engine = self.engines[request.decode_engine]
        engine.tok -= request.total_tokens
        engine.seq -= 1
        engine.free_hbm += request.need
        self.phase_2(engine.node)
