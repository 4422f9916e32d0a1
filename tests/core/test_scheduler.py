"""The scheduler against an audited fake backend: any cluster, arm, request mix and legal order of events."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from dualpath.core.arms import ARMS, Arm
from dualpath.core.cluster import Cluster
from dualpath.core.commands import Admit, Assigned, Command, Decode, Prefill, Read
from dualpath.core.events import (
    BufferFreed,
    Event,
    PrefillComputed,
    PrefillSent,
    ReadDone,
    Request,
    TurnDue,
    TurnEnded,
)
from dualpath.core.scheduler import Scheduler
from fake_backend import FakeBackend
from hypothesis import HealthCheck, given, settings
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
    cluster = small_cluster(
        draw(nodes),
        draw(nodes),
        prefill_buffer=draw(prompt_room),
        decode_buffer=draw(prompt_room),
        prefill_hbm=draw(prompt_room),
        decode_hbm=draw(total_room),
        alpha_tokens=draw(st.sampled_from([0, 20, 10**6])),
        beta_tokens=draw(st.sampled_from([0, 30, 10**6])),
        quota_pairs=draw(st.sampled_from([0, 1, 40, 300, 1e9])),
        prefill_in_flight=draw(st.integers(1, 3)),
    )
    count = draw(st.integers(1, 25))
    due_ns = 0
    turns: list[tuple[int, Request]] = []
    for number in range(count):
        due_ns += draw(st.sampled_from([0, 0, 0, 1, 7, 40]))
        turns.append((due_ns, draw(requests(number))))
    arm = ARMS[draw(st.sampled_from(sorted(ARMS)))]
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
    events: list[Event] = []
    answers: list[list[Command]] = []

    def step(event: Event) -> None:
        commands = scheduler.handle(event)
        events.append(event)
        answers.append(list(commands))
        backend.execute(commands)
        scheduler.load.check()
        check_books(scheduler, backend)
        backend.check_nothing_idles()

    coming = list(reversed(world.requests))
    while coming or backend.unfinished():
        while coming and coming[-1][0] <= backend.now_ns():
            due_ns, request = coming.pop()
            step(TurnDue(due_ns, backend.submit(request)))
        for event in backend.wait(coming[-1][0] if coming else None):
            step(event)
    return Played(scheduler, backend, events, answers)


def check_books(scheduler: Scheduler, backend: FakeBackend) -> None:
    """The scheduler's load is what the commands and events so far amount to."""
    cluster, load = scheduler.cluster, scheduler.load
    assert load.read_queue_blocks == [backend.read_queue[node] for node in range(cluster.num_nodes)]
    decode_engines = range(cluster.num_prefill, cluster.num_engines)
    assert [budget.used for budget in load.prefill_buffer] == [
        backend.prefill_buffer[engine] for engine in range(cluster.num_prefill)
    ]
    assert [budget.used for budget in load.decode_buffer] == [
        backend.decode_buffer[engine] for engine in decode_engines
    ]
    # An engine may also carry requests whose other engine is still to be chosen: those have no command yet.
    for engine in decode_engines:
        assert load.hbm(engine).used >= backend.decode_hbm[engine]
    for engine in range(cluster.num_engines):
        assert load.tokens[engine] >= backend.tokens[engine]


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(worlds())
def test_every_request_ends_once_and_nothing_stays_held(world: World) -> None:
    played = play(world)
    played.backend.check_idle()
    scheduler = played.scheduler
    assert scheduler.flights == {}
    assert set(scheduler.load.tokens) == {0}
    assert set(scheduler.load.requests) == {0}
    assert set(scheduler.load.read_queue_blocks) == {0}
    load = scheduler.load
    for budget in (*load.prefill_buffer, *load.decode_buffer, *load.decode_hbm):
        assert budget.used == 0
    # Exactly one of each milestone per request.
    for kind in (Assigned, Admit, Decode):
        ids = sorted(command.request for command in played.backend.commands if isinstance(command, kind))
        assert ids == list(range(len(world.requests)))


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(worlds())
def test_recorded_events_give_identical_commands(world: World) -> None:
    played = play(world)
    fresh = Scheduler(world.cluster, world.arm)
    assert [fresh.handle(event) for event in played.events] == played.answers


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(worlds(), st.sampled_from(["basic", "layerwise"]))
def test_single_path_arms_never_read_on_the_decode_side(world: World, arm: str) -> None:
    world = World(world.cluster, ARMS[arm], world.requests, world.seed, world.max_delay_ns)
    commands = play(world).backend.commands
    assert not [command for command in commands if isinstance(command, Read) and command.side == "decode"]
    # No quota in these arms, so no chunking either.
    assert all(chunk.last for command in commands if isinstance(command, Prefill) for chunk in command.chunks)


def test_the_generated_worlds_do_reach_the_hard_cases() -> None:
    """Chunks, splits, both sides, waits for each memory: the properties above are not vacuous."""
    seen: set[str] = set()

    @settings(max_examples=120, deadline=None, derandomize=True, database=None)
    @given(worlds())
    def look(world: World) -> None:
        played = play(world)
        admitted_at_once = {
            command.request
            for commands in played.answers
            for command in commands
            if isinstance(command, Admit) and Assigned in {type(other) for other in commands}
        }
        for command in played.backend.commands:
            match command:
                case Prefill(chunks=chunks):
                    seen.add("batch of several" if len(chunks) > 1 else "batch of one")
                    seen.update("chunk" for chunk in chunks if not chunk.last)
                case Assigned(prefill_blocks=left, decode_blocks=right):
                    seen.add(
                        {(0, 0): "cold", (1, 0): "prefill", (0, 1): "decode", (1, 1): "split"}[left > 0, right > 0]
                    )
                case Admit(request=request) if request not in admitted_at_once:
                    seen.add("waited for a buffer")
        for event, commands in zip(played.events, played.answers, strict=True):
            if isinstance(event, TurnEnded) and any(isinstance(command, Assigned) for command in commands):
                seen.add("waited for decode HBM")
            if isinstance(event, PrefillSent) and any(isinstance(command, Assigned) for command in commands):
                seen.add("waited for an overloaded PE")

    look()
    assert seen >= {
        "batch of several",
        "batch of one",
        "chunk",
        "cold",
        "prefill",
        "decode",
        "split",
        "waited for a buffer",
        "waited for decode HBM",
        "waited for an overloaded PE",
    }


@pytest.mark.parametrize("arm", sorted(ARMS))
@pytest.mark.parametrize("tight", ["prefill_buffer", "decode_buffer", "decode_hbm", "prefill_hbm"])
@pytest.mark.parametrize("shape", [((1, 1), (1, 1)), ((2, 1), (1, 2)), ((1, 2), (2, 1))])
def test_a_large_request_is_not_starved_by_small_ones(
    arm: str, tight: str, shape: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    """A closed loop keeps small requests coming; a request that needs a whole memory still gets its turn."""
    cluster = small_cluster(*shape, **{tight: 12})
    scheduler, backend = Scheduler(cluster, ARMS[arm]), FakeBackend(cluster, ARMS[arm], seed=1, max_delay_ns=3)
    large = 10
    number = 0

    def submit(prompt_tokens: int) -> None:
        nonlocal number
        request = Request(number, number, 0, prompt_tokens, 1, (prompt_tokens - 1) // BLOCK_TOKENS)
        number += 1
        backend.execute(scheduler.handle(TurnDue(backend.now_ns(), backend.submit(request))))

    for _ in range(large):
        submit(9)
    submit(47)
    while not backend.lives[large].ended:
        for event in backend.wait(None):
            backend.execute(scheduler.handle(event))
            if isinstance(event, TurnEnded):
                submit(9)
        assert number < 150, "starved"


@pytest.mark.parametrize("arm", ["dualpath", "split", "oracle"])
def test_a_chunked_request_waits_for_each_chunk_to_arrive(arm: str) -> None:
    """Its earlier chunk's KV is loaded back from the DE buffer, so it must be there first; others may go between."""
    cluster = small_cluster(quota_pairs=1)
    scheduler = Scheduler(cluster, ARMS[arm])
    first, second = Request(0, 0, 0, 10, 1, 0), Request(1, 1, 0, 3, 1, 0)
    commands = scheduler.handle(TurnDue(0, first)) + scheduler.handle(TurnDue(0, second))
    assert [(c.batch, c.chunks[0].request) for c in commands if isinstance(c, Prefill)] == [(0, 0)]
    # Computed, not sent: the engine is free, the first request is not.
    (prefill,) = scheduler.handle(PrefillComputed(1, 0, 0, 0))
    assert isinstance(prefill, Prefill)
    assert [chunk.request for chunk in prefill.chunks] == [1]
    assert scheduler.handle(PrefillSent(2, 0, 0)) == []
    (prefill,) = scheduler.handle(PrefillComputed(3, 0, 1, 1))
    assert isinstance(prefill, Prefill)
    assert [(chunk.request, chunk.cached_tokens, chunk.new_tokens) for chunk in prefill.chunks] == [(0, 4, 4)]


def test_chunked_requests_keep_their_order() -> None:
    """Two requests whose chunks are under way at once come back in the order in which they were first."""
    cluster = small_cluster(quota_pairs=1)
    scheduler = Scheduler(cluster, ARMS["dualpath"])
    for number in range(3):
        scheduler.handle(TurnDue(0, Request(number, number, 0, 8, 1, 0)))
    scheduler.handle(PrefillComputed(1, 0, 0, 0))  # batch 1: request 1
    scheduler.handle(PrefillComputed(2, 0, 1, 1))  # batch 2: request 2
    scheduler.handle(PrefillSent(3, 0, 0))
    scheduler.handle(PrefillSent(4, 0, 1))
    (prefill,) = scheduler.handle(PrefillComputed(5, 0, 2, 2))
    assert isinstance(prefill, Prefill)
    assert [chunk.request for chunk in prefill.chunks] == [0]


def test_the_life_of_one_request() -> None:
    """Every command of a split read, in order."""
    scheduler = Scheduler(small_cluster(), ARMS["split"])
    request = Request(0, 0, 0, 10, 3, 2)
    assert scheduler.handle(TurnDue(0, request)) == [
        Assigned(0, 0, 1, 1, 1, 0, 0),
        Admit(0),
        Read(0, "prefill", 0, 0, 1),
        Read(0, "decode", 1, 1, 1),
    ]
    assert scheduler.load.read_queue_blocks == [1, 1]
    assert scheduler.handle(ReadDone(1, 0, "decode")) == []
    assert scheduler.load.read_queue_blocks == [1, 0]
    (prefill,) = scheduler.handle(ReadDone(2, 0, "prefill"))
    assert isinstance(prefill, Prefill)
    (chunk,) = prefill.chunks
    assert (chunk.cached_tokens, chunk.new_tokens, chunk.last) == (8, 2, True)
    assert scheduler.handle(PrefillComputed(3, 0, 0, 2)) == []
    assert scheduler.load.prefill_buffer[0].used == 1
    assert scheduler.handle(PrefillSent(4, 0, 0)) == [Decode(0, 1)]
    assert scheduler.load.prefill_buffer[0].used == 0
    assert scheduler.load.decode_buffer[0].used == 3
    assert scheduler.handle(BufferFreed(5, 0)) == []
    assert scheduler.load.decode_buffer[0].used == 0
    assert scheduler.load.hbm(1).used == 4
    assert scheduler.handle(TurnEnded(6, 0, 6, 6, None)) == []
    assert scheduler.load.hbm(1).used == 0


def test_a_free_buffer_is_not_held_back_by_a_request_that_waits_for_another() -> None:
    """Two DEs: a request short of DE buffer on one does not stop later requests that use the other."""
    cluster = small_cluster(prefill=(1, 1), decode=(2, 1), decode_buffer=12)
    scheduler = Scheduler(cluster, ARMS["dualpath-rr"])  # DEs in turn, reads PE, DE, PE, ...
    large, small = 47, 3
    for number, prompt_tokens in enumerate([large, small, large, small]):
        request = Request(number, number, 0, prompt_tokens, 1, 0)
        admitted = [c.request for c in scheduler.handle(TurnDue(0, request)) if isinstance(c, Admit)]
        assert admitted == ([] if number == 2 else [number])


def test_events_at_one_time_are_served_in_the_order_given() -> None:
    """The scheduler never looks at t_ns: order is the loop's business alone."""
    orders: list[list[int]] = []
    for times in ([0, 1, 2], [2, 1, 0]):
        scheduler = Scheduler(small_cluster(prefill=(2, 1)), ARMS["basic"])
        due = [TurnDue(t_ns, Request(number, number, 0, 5, 1, 0)) for number, t_ns in enumerate(times)]
        commands = [command for event in due for command in scheduler.handle(event)]
        orders.append([command.prefill_engine for command in commands if isinstance(command, Assigned)])
    assert orders[0] == orders[1] == [0, 1, 0]
