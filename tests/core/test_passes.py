"""Pass groups: PEs whose forward passes start together."""

from __future__ import annotations

from dualpath.core.arms import ARMS
from dualpath.core.commands import Command, Prefill
from dualpath.core.events import PrefillComputed, PrefillSent, ReadDone, Request, TurnDue
from dualpath.core.scheduler import Scheduler
from small_cluster import small_cluster


def batches(commands: list[Command]) -> list[tuple[int, list[int]]]:
    """(engine, requests) of each batch, in order."""
    return [(each.engine, [chunk.request for chunk in each.chunks]) for each in commands if isinstance(each, Prefill)]


def in_turn(num_prefill: int, pass_engines: int = 1, prefill_in_flight: int = 1) -> Scheduler:
    """Places requests on PEs 0, 1, 2, ... and again."""
    cluster = small_cluster((num_prefill, 1), pass_engines=pass_engines, prefill_in_flight=prefill_in_flight)
    return Scheduler(cluster, ARMS["layerwise"])


def due(scheduler: Scheduler, number: int) -> list[tuple[int, list[int]]]:
    return batches(scheduler.handle(TurnDue(0, Request(number, number, 0, 5, 1, 0))))


def computed(scheduler: Scheduler, engine: int, batch: int) -> list[tuple[int, list[int]]]:
    return batches(scheduler.handle(PrefillComputed(0, engine, batch, 0)))


def test_no_engine_starts_before_all_have_computed() -> None:
    scheduler = in_turn(2, pass_engines=2)
    assert due(scheduler, 0) == [(0, [0])]
    assert due(scheduler, 1) == [], "it missed the pass"
    assert computed(scheduler, 0, 0) == [(1, [1])]
    assert due(scheduler, 2) == []
    assert due(scheduler, 3) == []
    assert computed(scheduler, 1, 1) == [(0, [2]), (1, [3])], "both at once, in order"
    assert [due(scheduler, number) for number in (4, 5)] == [[], []]
    assert computed(scheduler, 1, 3) == [], "engine 0 still computes"
    assert computed(scheduler, 0, 2) == [(0, [4]), (1, [5])]


def test_engines_of_other_groups_do_not_wait() -> None:
    scheduler = in_turn(4, pass_engines=2)
    assert [due(scheduler, number) for number in range(4)] == [[(0, [0])], [], [(2, [2])], []]
    assert computed(scheduler, 2, 1) == [(3, [3])]
    assert computed(scheduler, 0, 0) == [(1, [1])]


def test_engines_by_themselves_never_wait() -> None:
    scheduler = in_turn(3)
    assert [due(scheduler, number) for number in range(3)] == [[(0, [0])], [(1, [1])], [(2, [2])]]
    assert due(scheduler, 3) == []
    assert computed(scheduler, 0, 0) == [(0, [3])]


def test_a_request_joins_the_next_pass_when_its_read_is_done() -> None:
    scheduler = in_turn(2, pass_engines=2)
    scheduler.handle(TurnDue(0, Request(0, 0, 0, 5, 1, 1)))
    assert due(scheduler, 1) == [(1, [1])]
    assert batches(scheduler.handle(ReadDone(0, 0, "prefill"))) == []
    assert due(scheduler, 2) == []  # engine 0, too
    assert computed(scheduler, 1, 0) == [(0, [0, 2])]


def test_a_chunk_that_comes_back_waits_for_its_group() -> None:
    """The rest of a cut request may go on when its KV has arrived and no engine of the group computes."""
    cluster = small_cluster(prefill=(2, 1), pass_engines=2, quota_pairs=1)
    scheduler = Scheduler(cluster, ARMS["dualpath"])  # a block at a time; the emptier PE
    assert [due(scheduler, number) for number in range(2)] == [[(0, [0])], []]  # 5 tokens each: two chunks
    assert computed(scheduler, 0, 0) == [(1, [1])]
    assert batches(scheduler.handle(PrefillSent(0, 0, 0))) == [], "engine 1 computes"
    assert computed(scheduler, 1, 1) == [(0, [0])], "request 1's first chunk has not arrived"
    assert batches(scheduler.handle(PrefillSent(0, 1, 1))) == []
    assert computed(scheduler, 0, 2) == [(1, [1])]
