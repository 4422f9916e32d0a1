"""Random worlds, a cluster under an arm and the requests it serves, and how one is played to its end."""

from __future__ import annotations

import random
from dataclasses import dataclass

import books
from dualpath.core.arms import ARMS, Arm
from dualpath.core.cluster import Cluster
from dualpath.core.commands import Command
from dualpath.core.events import Event, Request, TurnDue
from dualpath.core.scheduler import Scheduler
from fake_backend import FakeBackend
from hypothesis import strategies as st
from small_cluster import BLOCK_TOKENS, small_cluster

MAX_PROMPT_BLOCKS = 12
MAX_TOTAL_BLOCKS = 14


@dataclass(frozen=True)
class World:
    cluster: Cluster
    arm: Arm
    requests: tuple[tuple[int, Request], ...]  # (due_ns, request), in order
    seed: int
    max_delay_ns: int


@st.composite
def requests(draw: st.DrawFn, request: int) -> Request:
    kind = draw(st.sampled_from(["cold", "one block", "large hit", "any"]))
    prompt_tokens = draw(st.integers(1, MAX_PROMPT_BLOCKS * BLOCK_TOKENS))
    largest_hit = (prompt_tokens - 1) // BLOCK_TOKENS
    hit_blocks = {
        "cold": 0,
        "one block": min(1, largest_hit),
        "large hit": largest_hit,
        "any": draw(st.integers(0, largest_hit)),
    }[kind]
    longest_output = MAX_TOTAL_BLOCKS * BLOCK_TOKENS - prompt_tokens
    generate_tokens = draw(st.one_of(st.just(1), st.integers(1, longest_output)))
    return Request(request, request, 0, prompt_tokens, generate_tokens, hit_blocks)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    nodes = st.tuples(st.integers(1, 4), st.integers(1, 2))
    prompt_room = st.sampled_from([MAX_PROMPT_BLOCKS, MAX_PROMPT_BLOCKS + 3, 3 * MAX_PROMPT_BLOCKS, 1000])
    total_room = st.sampled_from([MAX_TOTAL_BLOCKS, MAX_TOTAL_BLOCKS + 3, 3 * MAX_TOTAL_BLOCKS, 1000])
    prefill = draw(nodes)
    num_prefill = prefill[0] * prefill[1]
    pass_engines = draw(st.sampled_from([n for n in range(1, num_prefill + 1) if num_prefill % n == 0]))
    cluster = small_cluster(
        prefill,
        draw(nodes),
        prefill_buffer=draw(prompt_room),
        decode_buffer=draw(prompt_room),
        prefill_hbm=draw(prompt_room),
        decode_hbm=draw(total_room),
        alpha_tokens=draw(st.sampled_from([0, 20, 10**6])),
        beta_tokens=draw(st.sampled_from([0, 30, 10**6])),
        quota_pairs=draw(st.sampled_from([0, 1, 40, 300, 1e9])),
        ns_per_context=draw(st.sampled_from([0.0, 0.0, 1.0, 5.0])),
        prefill_in_flight=draw(st.sampled_from([1, 1, 2, 3])) if pass_engines == 1 else 1,
        pass_engines=pass_engines,
        report_s=draw(st.sampled_from([0.0, 0.0, 1.0])),
    )
    count = draw(st.integers(1, 25))
    due_ns = 0
    turns: list[tuple[int, Request]] = []
    for number in range(count):
        due_ns += draw(st.sampled_from([0, 0, 0, 1, 7, 40]))
        turns.append((due_ns, draw(requests(number))))
    arm = ARMS[draw(st.sampled_from(["basic", *sorted(ARMS)]))]  # the one that holds prefill HBM comes more often
    return World(cluster, arm, tuple(turns), draw(st.integers(0, 2**16)), draw(st.sampled_from([0, 1, 5, 50])))


@dataclass
class Played:
    scheduler: Scheduler
    backend: FakeBackend
    events: list[Event]
    answers: list[list[Command]]


def play(world: World) -> Played:
    """Serve a world's requests to the end; the backend audits each command."""
    scheduler = Scheduler(world.cluster, world.arm)
    backend = FakeBackend(world.cluster, world.arm, world.seed, world.max_delay_ns)
    dice = random.Random(world.seed)
    events: list[Event] = []
    answers: list[list[Command]] = []

    def step(event: Event) -> None:
        commands = scheduler.handle(event)
        events.append(event)
        answers.append(list(commands))
        backend.execute(commands)
        books.check(scheduler.state)
        books.check_decode_engines(scheduler.state)
        compare_books(scheduler, backend)
        backend.check_nothing_idles()

    coming = list(reversed(world.requests))
    while coming or backend.unfinished():
        while coming and coming[-1][0] <= backend.now_ns():
            due_ns, request = coming.pop()
            step(TurnDue(due_ns, backend.submit(request)))
        for event in backend.wait(coming[-1][0] if coming else None):
            step(event)
        if world.cluster.constants.report_s and dice.random() < 0.3:
            step(backend.report())
    return Played(scheduler, backend, events, answers)


def compare_books(scheduler: Scheduler, backend: FakeBackend) -> None:
    """The scheduler's books are what the commands and events so far amount to."""
    cluster, state, memory = scheduler.cluster, scheduler.state, backend.memory
    prefill, engines = range(cluster.num_prefill), range(cluster.num_engines)
    assert books.read_queues(state) == [backend.read_queue[node] for node in range(cluster.num_nodes)]
    used = [memory.prefill_buffer[e] if e in prefill else memory.decode_buffer[e] for e in engines]
    assert books.buffer_used(state) == used
    assert books.hbm_used(state)[: cluster.num_prefill] == [memory.prefill_hbm[engine] for engine in prefill]
    # A request that has one of its engines only counts there, and has no command yet.
    half_placed = books.half_placed_tokens(state)
    assert books.tokens(state) == [backend.tokens[engine] + half_placed[engine] for engine in engines]
