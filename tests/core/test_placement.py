"""Placement against the paper's text (paper.py), and its rules one by one."""

from __future__ import annotations

import random

import books
import pytest
from by_hand import carry, take_flight
from dualpath.core.arms import ARMS
from dualpath.core.cluster import Cluster
from dualpath.core.placement import (
    leave_decode,
    leave_prefill,
    place_in_group,
    place_prefill,
    place_round_robin,
    share_among_groups,
)
from dualpath.core.queues import pop, push
from dualpath.core.state import DECODE, PLACEMENTS, PREFILL, State, new_state
from hypothesis import given, settings
from hypothesis import strategies as st
from paper import Paper, Request
from small_cluster import BLOCK_TOKENS, small_cluster

ADAPTIVE, IN_TURN = ARMS["dualpath"], ARMS["layerwise"]


def come(state: State, prompt_tokens: int, generate_tokens: int = 1) -> int:
    """A request that waits for both engines; nobody is told."""
    flight = take_flight(state, prompt_tokens, generate_tokens)
    push(state.arrivals, PREFILL, state.after_prefill, flight)
    if PLACEMENTS[state.rules[0].placement] == "adaptive":
        push(state.arrivals, DECODE, state.after_decode, flight)
    return flight


def fetch(state: State) -> list[int]:
    """As when a request comes; returns who has both engines now, in order."""
    place_prefill(state)
    share_among_groups(state)
    return placed(state)


def placed(state: State) -> list[int]:
    return [pop(state.placed, 0, state.after) for _ in range(state.placed[0].length)]


def engines_of(state: State, flight: int) -> tuple[int, int]:
    return int(state.flights[flight].prefill_engine), int(state.flights[flight].decode_engine)


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


class Both:
    """The compiled placement and the paper's, told the same."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self.rng = rng
        self.state = new_state(cluster, ADAPTIVE, 64)
        for engine in range(cluster.num_engines):
            hbm_blocks = rng.randrange(10) if engine >= cluster.num_prefill else 0
            carry(self.state, engine, rng.choice([0, 0, 30, rng.randrange(300)]), rng.randrange(4), hbm_blocks)
        self.paper = Paper(cluster, self.state)
        self.requests: list[Request] = []
        self.at_prefill: list[Request] = []  # placed, still there
        self.at_decode: list[Request] = []

    def come(self) -> None:
        prompt_tokens, generate_tokens = self.rng.randint(1, 35), self.rng.randint(1, 5)
        total_tokens = prompt_tokens + generate_tokens
        need = (total_tokens + BLOCK_TOKENS - 1) // BLOCK_TOKENS
        request = Request(come(self.state, prompt_tokens, generate_tokens), prompt_tokens, total_tokens, need)
        self.requests.append(request)
        self.paper.prefill_queue.append(request)
        self.paper.decode_queue.append(request)

    def leave(self, request: Request) -> None:
        """The PE first, then the DE, as prefill_sent and turn_ended do it."""
        if request in self.at_prefill:
            self.at_prefill.remove(request)
            leave_prefill(self.state, request.flight)
            place_prefill(self.state)
            self.paper.leave_prefill(request)
        else:
            self.at_decode.remove(request)
            leave_decode(self.state, request.flight)
            place_in_group(self.state, self.paper.engines[request.decode_engine].node)
            self.paper.leave_decode(request)

    def compare(self) -> None:
        now = placed(self.state)
        assert now == self.paper.placed
        self.paper.placed = []
        new = [request for request in self.requests if request.flight in now]
        self.at_prefill += new
        self.at_decode += new
        for request in self.requests:
            assert engines_of(self.state, request.flight) == (request.prefill_engine, request.decode_engine)
        assert books.tokens(self.state) == [engine.tok for engine in self.paper.engines]
        assert books.requests(self.state) == [engine.seq for engine in self.paper.engines]
        books.check(self.state)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(clusters(), st.integers(0, 2**32))
def test_adaptive_placement_is_the_papers(cluster: Cluster, seed: int) -> None:
    """Rounds of arrivals, a fetch, queues that move and requests that leave: same engines as the transcription."""
    rng = random.Random(seed)
    both = Both(cluster, rng)
    for _ in range(6):
        for node in range(cluster.num_nodes):
            both.state.nodes[node].read_queue_blocks = rng.choice([0, 1, 2, 3, 12, 13])
        both.paper.read_q = [blocks * BLOCK_TOKENS for blocks in books.read_queues(both.state)]
        for _ in range(rng.randrange(6)):
            both.come()
        place_prefill(both.state)
        share_among_groups(both.state)
        both.paper.fetch()
        both.compare()
        for request in [request for request in both.at_decode if rng.random() < 0.6]:
            both.leave(request)
            both.compare()


def come_and_fetch(state: State, prompts: list[int]) -> list[tuple[int, int]]:
    flights = [come(state, prompt_tokens) for prompt_tokens in prompts]
    fetch(state)
    return [engines_of(state, flight) for flight in flights]


def test_a_short_disk_queue_beats_fewer_tokens() -> None:
    cluster = small_cluster(prefill=(2, 1), alpha_tokens=8)
    for read_queues, chosen in (([3, 2, 0], 1), ([3, 3, 0], 0)):  # 12 and 8 tokens: alpha itself is still short
        state = new_state(cluster, ADAPTIVE, 1)
        carry(state, 1, 1000)
        state.nodes["read_queue_blocks"] = read_queues
        assert come_and_fetch(state, [5]) == [(chosen, 2)]


def test_an_overloaded_engine_gets_nothing_and_beta_itself_is_not_overload() -> None:
    cluster = small_cluster(prefill=(2, 1), beta_tokens=10)
    # The overloaded engine is skipped even when its disk queue is the only short one.
    for blocks in (0, 10**9):
        state = new_state(cluster, ADAPTIVE, 2)
        carry(state, 0, 10)
        carry(state, 1, 11)
        state.nodes[0].read_queue_blocks = blocks
        assert come_and_fetch(state, [5, 5]) == [(0, 2), (-1, 2)]


def test_groups_share_requests_that_come_together() -> None:
    """The letter of phase 1 would send all of them to one group: tok_e changes in phase 2 only."""
    cluster = small_cluster(decode=(2, 2))
    state = new_state(cluster, ADAPTIVE, 4)
    decode_engines = [engines[1] for engines in come_and_fetch(state, [10] * 4)]
    assert [cluster.node_of(engine) for engine in decode_engines] == [1, 2, 1, 2]


def test_requests_that_wait_in_a_private_queue_count_as_their_groups() -> None:
    """Two groups without HBM: neither serves anybody, and still the queues grow alike."""
    state = new_state(small_cluster(decode=(2, 1), decode_hbm=10), ADAPTIVE, 4)
    carry(state, 1, 0, hbm_blocks=9)
    carry(state, 2, 0, hbm_blocks=9)
    flights = [come(state, prompt_tokens) for prompt_tokens in (20, 10, 12, 20)]
    assert fetch(state) == []
    assert [books.private_queue(state, node) for node in (1, 2)] == [[flights[0], flights[3]], flights[1:3]]
    books.check(state)


def test_a_group_that_cannot_serve_its_head_keeps_its_queue_in_order() -> None:
    """Not globally FIFO: a small request behind a large one waits, though it would fit."""
    state = new_state(small_cluster(decode_hbm=10), ADAPTIVE, 3)
    first, large, small = (come(state, prompt_tokens) for prompt_tokens in (19, 39, 3))
    assert fetch(state) == [first]
    for ended, following in ((first, large), (large, small)):
        leave_decode(state, ended)
        place_in_group(state, 1)
        assert placed(state) == [following]


def test_fewest_requests_under_the_threshold_fewest_tokens_above() -> None:
    for z_factor, tokens, chosen in (
        (1.0, [40, 30], 2),  # Z = (10 + 70) / 2 = 40: only the second engine stays under it
        (2.0, [20, 10], 1),  # Z = 40: both stay under it, so the one with fewer requests
        (1.0, [46, 45], 2),  # Z = 50.5: neither does, so the one with fewer tokens
    ):
        state = new_state(small_cluster(decode=(1, 2), z_factor=z_factor), ADAPTIVE, 1)
        carry(state, 1, tokens[0], requests=1)
        carry(state, 2, tokens[1], requests=3)
        assert come_and_fetch(state, [9]) == [(0, chosen)]


@pytest.mark.parametrize(("prefill", "decode"), [((1, 1), (1, 1)), ((2, 2), (1, 3)), ((1, 2), (2, 1))])
def test_round_robin_takes_engines_in_turn(prefill: tuple[int, int], decode: tuple[int, int]) -> None:
    cluster = small_cluster(prefill, decode)
    state = new_state(cluster, IN_TURN, 12)
    flights = [come(state, 10) for _ in range(12)]
    place_round_robin(state)
    assert placed(state) == flights
    for number, flight in enumerate(flights):
        turn = number % cluster.num_prefill, cluster.num_prefill + number % cluster.num_decode
        assert engines_of(state, flight) == turn


def test_round_robin_waits_for_the_engine_whose_turn_it_is() -> None:
    state = new_state(small_cluster(decode=(2, 1), decode_hbm=10), IN_TURN, 4)
    flights = [come(state, 29) for _ in range(4)]
    place_round_robin(state)
    assert placed(state) == flights[:2]
    leave_decode(state, flights[1])
    place_round_robin(state)
    assert placed(state) == []  # engine 2 has room, but it is engine 1's turn
    leave_decode(state, flights[0])
    place_round_robin(state)
    assert placed(state) == flights[2:]
