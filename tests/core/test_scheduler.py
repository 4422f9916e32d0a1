"""The scheduler against an audited fake backend: any cluster, arm, request mix and legal order of events."""

from __future__ import annotations

from dataclasses import replace

import books
import pytest
from dualpath.core.arms import ARMS
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
from worlds import World, play, worlds


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(worlds())
def test_every_request_ends_once_and_nothing_stays_held(world: World) -> None:
    played = play(world)
    played.backend.check_idle()
    assert played.scheduler.flights == {}
    books.check_idle(played.scheduler.state)
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
    commands = play(replace(world, arm=ARMS[arm])).backend.commands
    assert not [command for command in commands if isinstance(command, Read) and command.side == "decode"]
    # No quota in these arms, so no chunking either.
    assert all(chunk.last for command in commands if isinstance(command, Prefill) for chunk in command.chunks)


def test_the_generated_worlds_do_reach_the_hard_cases() -> None:
    """Chunks, splits, both sides, waits for each memory and for a pass: the properties above are not vacuous."""
    seen: set[str] = set()

    @settings(max_examples=250, deadline=None, derandomize=True, database=None)
    @given(worlds())
    def look(world: World) -> None:
        played = play(world)
        for event, commands in zip(played.events, played.answers, strict=True):
            seen.update(cases(world, event, commands))

    look()
    assert seen >= {
        "batch of one",
        "batch of several",
        "chunk",
        "cold",
        "decode",
        "pass of one",
        "pass of several",
        "prefill",
        "split",
        "waited for a DE buffer",
        "waited for an overloaded PE",
        "waited for decode HBM",
        "waited for other engines of its pass group",
        "waited for PE memory",
        "waited for prefill HBM",
    }


def cases(world: World, event: Event, commands: list[Command]) -> set[str]:
    """What an answer says about the world, by event and command."""
    found: set[str] = set()
    assigned = {command.request: command for command in commands if isinstance(command, Assigned)}
    batches = [command for command in commands if isinstance(command, Prefill)]
    if world.cluster.pass_engines > 1 and batches:
        found.add("pass of several" if len({command.engine for command in batches}) > 1 else "pass of one")
    for batch in batches:
        found.add("batch of several" if len(batch.chunks) > 1 else "batch of one")
        found |= {"chunk" for chunk in batch.chunks if not chunk.last}
        if isinstance(event, PrefillComputed) and batch.engine != event.engine:
            found.add("waited for other engines of its pass group")
    for route in assigned.values():
        sides = route.prefill_blocks > 0, route.decode_blocks > 0
        found.add({(0, 0): "cold", (1, 0): "prefill", (0, 1): "decode", (1, 1): "split"}[sides])
        match event:
            case TurnEnded():
                found.add("waited for decode HBM")
            case PrefillSent():
                found.add("waited for an overloaded PE")
    read = {command.request for command in commands if isinstance(command, Read) and command.side == "prefill"}
    for command in commands:
        if isinstance(command, Admit) and command.request not in assigned:
            match event:
                case BufferFreed():
                    found.add("waited for a DE buffer")
                case PrefillSent():
                    found.add("waited for PE memory" if command.request in read else "waited for prefill HBM")
    return found


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
    assert books.read_queues(scheduler.state) == [1, 1]
    assert scheduler.handle(ReadDone(1, 0, "decode")) == []
    assert books.read_queues(scheduler.state) == [1, 0]
    (prefill,) = scheduler.handle(ReadDone(2, 0, "prefill"))
    assert isinstance(prefill, Prefill)
    (chunk,) = prefill.chunks
    assert (chunk.cached_tokens, chunk.new_tokens, chunk.last) == (8, 2, True)
    assert scheduler.handle(PrefillComputed(3, 0, 0, 2)) == []
    assert books.buffer_used(scheduler.state) == [1, 3]
    assert books.tokens(scheduler.state) == [10, 13]
    assert scheduler.handle(PrefillSent(4, 0, 0)) == [Decode(0, 1)]
    assert books.buffer_used(scheduler.state) == [0, 3]
    assert books.tokens(scheduler.state) == [0, 13]
    assert scheduler.handle(BufferFreed(5, 0)) == []
    assert books.buffer_used(scheduler.state) == [0, 0]
    assert books.hbm_used(scheduler.state) == [0, 4]
    assert scheduler.handle(TurnEnded(6, 0, 6, 6, None)) == []
    books.check_idle(scheduler.state)


def test_a_flight_shows_where_its_request_is_served() -> None:
    scheduler = Scheduler(small_cluster(prefill=(2, 1), decode=(1, 2), beta_tokens=0), ARMS["split"])
    for number in range(3):
        scheduler.handle(TurnDue(0, Request(number, number, 0, 10, 3, 2)))
    flights = scheduler.flights.values()
    assert [(flight.prefill_engine, flight.decode_engine) for flight in flights] == [(0, 2), (1, 3), (-1, -1)]
    assert [(flight.prefill_blocks, flight.decode_blocks) for flight in flights] == [(1, 1), (2, 0), (0, 0)]
    assert {flight.total_tokens for flight in flights} == {13}


def test_any_number_of_requests_may_be_due_at_once() -> None:
    """The state grows as they come: books and waiting requests survive it, and numbers are used again."""
    cluster = small_cluster(prefill=(2, 1), decode=(2, 2), decode_hbm=20, prefill_buffer=7, decode_buffer=9)
    requests = [Request(n, n, 0, 1 + 7 * n % 23, 1 + n % 5, 7 * n % 23 // BLOCK_TOKENS) for n in range(170)]
    due = tuple(
        (n // 140 * 50, request) for n, request in enumerate(requests)
    )  # 140 at once, then 30 when few are left
    for arm in ("basic", "split"):
        played = play(World(cluster, ARMS[arm], due, seed=1, max_delay_ns=3))
        played.backend.check_idle()
        books.check_idle(played.scheduler.state)
        assert len(played.scheduler.state.flights) == 256


def test_one_event_may_start_everything() -> None:
    """A turn that held all decode HBM ends: every request that waited has four commands in the answer."""
    scheduler = Scheduler(small_cluster(decode_hbm=300), ARMS["split"])
    scheduler.handle(TurnDue(0, Request(0, 0, 0, 1, 300 * BLOCK_TOKENS - 1, 0)))
    for number in range(1, 101):
        scheduler.handle(TurnDue(0, Request(number, number, 0, 11, 1, 2)))
    for event in (PrefillComputed(0, 0, 0, 0), PrefillSent(0, 0, 0), BufferFreed(0, 0)):
        scheduler.handle(event)
    commands = scheduler.handle(TurnEnded(0, 0, 0, 0, None))
    assert [command.request for command in commands if isinstance(command, Admit)] == list(range(1, 101))
    assert len(commands) == 400
    books.check(scheduler.state)


def test_events_at_one_time_are_served_in_the_order_given() -> None:
    """The scheduler never looks at t_ns: order is the loop's business alone."""
    orders: list[list[int]] = []
    for times in ([0, 1, 2], [2, 1, 0]):
        scheduler = Scheduler(small_cluster(prefill=(2, 1)), ARMS["basic"])
        due = [TurnDue(t_ns, Request(number, number, 0, 5, 1, 0)) for number, t_ns in enumerate(times)]
        commands = [command for event in due for command in scheduler.handle(event)]
        orders.append([command.prefill_engine for command in commands if isinstance(command, Assigned)])
    assert orders[0] == orders[1] == [0, 1, 0]
