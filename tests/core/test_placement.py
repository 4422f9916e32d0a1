"""Placement against a slow, literal reading of the paper's Algorithm 1 and its two phases for DEs.

Where the code departs from the letter, on purpose:
- All groups fetch at every event, together; the paper's groups fetch one by one, at a period it does not give.
- DE phase 1 counts requests that wait in a group's private queue as the group's, the paper's text only `tok_e`.
- Ties, which the paper leaves open: lowest engine number; in DE phase 2 fewest requests, then fewest tokens.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from dualpath.core.cluster import Cluster
from dualpath.core.events import Request
from dualpath.core.flight import Flight, Load
from dualpath.core.placement import AdaptivePlacement, RoundRobinPlacement
from hypothesis import given, settings
from hypothesis import strategies as st
from small_cluster import BLOCK_TOKENS, small_cluster


def flight(number: int, prompt_tokens: int, generate_tokens: int = 1) -> Flight:
    return Flight(Request(number, number, 0, prompt_tokens, generate_tokens, 0))


@dataclass
class Engine:
    number: int
    node: int
    tok: int = 0
    seq: int = 0
    free_hbm: int = 0


class Paper:
    """PAPER 5.2 and 5.3, line by line, on its own state. Slow and plain."""

    def __init__(self, cluster: Cluster, load: Load) -> None:
        self.alpha, self.beta = cluster.constants.alpha_tokens, cluster.constants.beta_tokens
        self.z_factor = cluster.constants.z_factor
        self.block_tokens = cluster.block_tokens
        self.read_q = [blocks * cluster.block_tokens for blocks in load.read_queue_blocks]
        engines = [Engine(e, cluster.node_of(e), load.tokens[e], load.requests[e]) for e in range(cluster.num_engines)]
        self.prefill, self.decode = engines[: cluster.num_prefill], engines[cluster.num_prefill :]
        for engine in self.decode:
            engine.free_hbm = load.hbm(engine.number).free
        nodes = sorted({engine.node for engine in self.decode})
        self.groups = [[engine for engine in self.decode if engine.node == node] for node in nodes]
        self.private: list[list[Flight]] = [[] for _ in self.groups]
        self.prefill_queue: list[Flight] = []
        self.decode_queue: list[Flight] = []
        self.prefill_of: dict[int, int] = {}
        self.decode_of: dict[int, int] = {}

    def need(self, request: Flight) -> int:
        return (request.total_tokens + self.block_tokens - 1) // self.block_tokens

    def fetch(self) -> None:
        self.algorithm_1()
        self.phase_1()
        for group, private in zip(self.groups, self.private, strict=True):
            self.phase_2(group, private)

    def algorithm_1(self) -> None:
        while self.prefill_queue:
            request = self.prefill_queue[0]
            not_overloaded = [e for e in self.prefill if e.tok <= self.beta]
            c2 = [e for e in not_overloaded if self.read_q[e.node] <= self.alpha]
            c3 = [e for e in not_overloaded if self.read_q[e.node] > self.alpha]
            if c2:
                chosen = min(c2, key=lambda e: e.tok)
            elif c3:
                chosen = min(c3, key=lambda e: e.tok)
            else:
                break
            self.prefill_of[request.request.id] = chosen.number
            chosen.tok += request.request.prompt_tokens
            chosen.seq += 1
            self.prefill_queue.pop(0)

    def phase_1(self) -> None:
        for request in self.decode_queue:
            sums = [
                sum(e.tok for e in group) + sum(waiting.total_tokens for waiting in private)
                for group, private in zip(self.groups, self.private, strict=True)
            ]
            self.private[sums.index(min(sums))].append(request)
        self.decode_queue = []

    def phase_2(self, group: list[Engine], private: list[Flight]) -> None:
        free = sum(e.free_hbm for e in group)
        fitting_prefix = 0
        while fitting_prefix < len(private) and sum(map(self.need, private[: fitting_prefix + 1])) <= free:
            fitting_prefix += 1
        prefix_tokens = sum(request.total_tokens for request in private[:fitting_prefix])
        z = self.z_factor * (prefix_tokens + sum(e.tok for e in group)) / len(group)
        while private:
            request = private[0]
            able = [e for e in group if e.free_hbm >= self.need(request)]
            if not able:
                return
            low = [e for e in able if e.tok + request.total_tokens <= z]
            high = [e for e in able if e not in low]
            chosen = min(low, key=lambda e: (e.seq, e.tok)) if low else min(high, key=lambda e: e.tok)
            self.decode_of[request.request.id] = chosen.number
            chosen.tok += request.total_tokens
            chosen.seq += 1
            chosen.free_hbm -= self.need(request)
            private.pop(0)

    def leave(self, request: Flight) -> None:
        for engine in (self.prefill + self.decode)[request.prefill_engine], self.decode_engine(request):
            engine.seq -= 1
        self.prefill[request.prefill_engine].tok -= request.request.prompt_tokens
        self.decode_engine(request).tok -= request.total_tokens
        self.decode_engine(request).free_hbm += self.need(request)

    def decode_engine(self, request: Flight) -> Engine:
        return self.decode[request.decode_engine - len(self.prefill)]


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    nodes = st.tuples(st.integers(1, 3), st.integers(1, 3))
    return small_cluster(
        draw(nodes),
        draw(nodes),
        decode_hbm=draw(st.sampled_from([20, 30, 1000])),
        alpha_tokens=draw(st.sampled_from([0, 7, 50])),
        beta_tokens=draw(st.sampled_from([0, 50, 200])),
        z_factor=draw(st.sampled_from([1.0, 1.05, 2.0])),
    )


@settings(max_examples=300, deadline=None, derandomize=True)
@given(clusters(), st.integers(0, 2**32))
def test_adaptive_placement_is_the_papers(cluster: Cluster, seed: int) -> None:
    """Rounds of arrivals, a fetch, queues that move and requests that end: same engines as the transcription."""
    rng = random.Random(seed)
    load = Load(cluster)
    for engine in range(cluster.num_engines):  # someone else's work, which never ends here
        load.tokens[engine] = rng.choice([0, 0, 30, rng.randrange(300)])
        load.requests[engine] = rng.randrange(4)
    for budget in load.decode_hbm:
        budget.reserve(rng.randrange(10))
    placement, paper = AdaptivePlacement(cluster), Paper(cluster, load)
    flights: list[Flight] = []
    running: list[Flight] = []
    for _ in range(6):
        for node in range(cluster.num_nodes):
            load.read_queue_blocks[node] = rng.choice([0, 1, 2, 3, 12, 13])
        paper.read_q = [blocks * BLOCK_TOKENS for blocks in load.read_queue_blocks]
        for _ in range(rng.randrange(6)):
            new = flight(len(flights), rng.randint(1, 35), rng.randint(1, 5))
            flights.append(new)
            placement.enqueue(new)
            paper.prefill_queue.append(new)
            paper.decode_queue.append(new)
        placed = placement.place(load)
        paper.fetch()
        for each in flights:
            assert each.prefill_engine == paper.prefill_of.get(each.request.id, -1)
            assert each.decode_engine == paper.decode_of.get(each.request.id, -1)
        assert all(each.assigned for each in placed)
        running += placed
        assert len({each.request.id for each in running}) == len(running)
        for each in [each for each in running if rng.random() < 0.5]:
            running.remove(each)
            paper.leave(each)
            load.leave_prefill(each)
            load.leave_decode(each)
        load.check()
        assert load.tokens == [engine.tok for engine in paper.prefill + paper.decode]
        assert load.requests == [engine.seq for engine in paper.prefill + paper.decode]


def placed_prefill(cluster: Cluster, load: Load, prompts: list[int]) -> list[int]:
    placement = AdaptivePlacement(cluster)
    flights = [flight(number, prompt) for number, prompt in enumerate(prompts)]
    for each in flights:
        placement.enqueue(each)
    placement.place(load)
    return [each.prefill_engine for each in flights]


def test_a_short_disk_queue_beats_fewer_tokens() -> None:
    cluster = small_cluster(prefill=(2, 1), alpha_tokens=8)
    load = Load(cluster)
    load.tokens[1] = 1000
    load.read_queue_blocks = [3, 2, 0]  # 12 and 8 tokens: alpha itself is still short
    assert placed_prefill(cluster, load, [5]) == [1]
    load = Load(cluster)
    load.tokens[1] = 1000
    load.read_queue_blocks = [3, 3, 0]
    assert placed_prefill(cluster, load, [5]) == [0]


def test_an_overloaded_engine_gets_nothing_and_beta_itself_is_not_overload() -> None:
    cluster = small_cluster(prefill=(2, 1), beta_tokens=10)
    load = Load(cluster)
    load.tokens[:2] = [10, 11]
    assert placed_prefill(cluster, load, [5, 5]) == [0, -1]
    # The overloaded engine is skipped even when its disk queue is the only short one.
    load = Load(cluster)
    load.tokens[:2] = [10, 11]
    load.read_queue_blocks[0] = 10**9
    assert placed_prefill(cluster, load, [5]) == [0]


def test_groups_share_requests_that_come_together() -> None:
    """The letter of phase 1 would send all of them to one group: tok_e changes in phase 2 only."""
    cluster = small_cluster(decode=(2, 2))
    placement, load = AdaptivePlacement(cluster), Load(cluster)
    flights = [flight(number, 10) for number in range(4)]
    for each in flights:
        placement.enqueue(each)
    placement.place(load)
    assert [cluster.node_of(each.decode_engine) for each in flights] == [1, 2, 1, 2]


def test_a_group_that_cannot_serve_its_head_keeps_its_queue_in_order() -> None:
    """Not globally FIFO: a small request behind a large one waits, though it would fit."""
    cluster = small_cluster(decode_hbm=10)
    placement, load = AdaptivePlacement(cluster), Load(cluster)
    first, large, small = flight(0, 19), flight(1, 39), flight(2, 3)
    for each in (first, large, small):
        placement.enqueue(each)
    assert placement.place(load) == [first]
    load.leave_prefill(first)
    load.leave_decode(first)
    assert placement.place(load) == [large]
    load.leave_prefill(large)
    load.leave_decode(large)
    assert placement.place(load) == [small]


def test_fewest_requests_under_the_threshold_fewest_tokens_above() -> None:
    cluster = small_cluster(decode=(1, 2), z_factor=1.0)
    load = Load(cluster)
    load.tokens[1:], load.requests[1:] = [40, 30], [1, 3]
    placement, one = AdaptivePlacement(cluster), flight(0, 9)
    placement.enqueue(one)
    placement.place(load)  # Z = (10 + 70) / 2 = 40: only the second engine stays under it
    assert one.decode_engine == 2
    load = Load(cluster)
    load.tokens[1:], load.requests[1:] = [20, 10], [1, 3]
    placement, one = AdaptivePlacement(small_cluster(decode=(1, 2), z_factor=2.0)), flight(0, 9)
    placement.enqueue(one)
    placement.place(load)  # Z = 40: both stay under it, so the one with fewer requests
    assert one.decode_engine == 1


@pytest.mark.parametrize(("prefill", "decode"), [((1, 1), (1, 1)), ((2, 2), (1, 3)), ((1, 2), (2, 1))])
def test_round_robin_takes_engines_in_turn(prefill: tuple[int, int], decode: tuple[int, int]) -> None:
    cluster = small_cluster(prefill, decode)
    placement, load = RoundRobinPlacement(cluster), Load(cluster)
    flights = [flight(number, 10) for number in range(12)]
    for each in flights:
        placement.enqueue(each)
    assert placement.place(load) == flights
    for number, each in enumerate(flights):
        assert each.prefill_engine == number % cluster.num_prefill
        assert each.decode_engine == cluster.num_prefill + number % cluster.num_decode


def test_round_robin_waits_for_the_engine_whose_turn_it_is() -> None:
    cluster = small_cluster(decode=(2, 1), decode_hbm=10)
    placement, load = RoundRobinPlacement(cluster), Load(cluster)
    flights = [flight(number, 29) for number in range(4)]
    for each in flights:
        placement.enqueue(each)
    assert placement.place(load) == flights[:2]
    load.leave_prefill(flights[1])
    load.leave_decode(flights[1])
    assert placement.place(load) == []  # engine 2 has room, but it is engine 1's turn
    load.leave_prefill(flights[0])
    load.leave_decode(flights[0])
    assert placement.place(load) == flights[2:]
