"""Who gets memory when: the PE's first, then DE buffer, each first come, first served."""

from __future__ import annotations

import books
import pytest
from dualpath.core.arms import ARMS
from dualpath.core.commands import Admit, Assigned, Chunk, Command, Decode, Prefill, Read
from dualpath.core.events import BufferFreed, PrefillComputed, PrefillSent, ReadDone, Request, TurnDue, TurnEnded
from dualpath.core.scheduler import Scheduler
from small_cluster import BLOCK_TOKENS, small_cluster

LAYERWISE_ARMS = sorted(name for name, arm in ARMS.items() if arm.layerwise)
WHOLE_ARMS = sorted(set(ARMS) - set(LAYERWISE_ARMS))  # their PEs hold all layers of a request at once


def due(scheduler: Scheduler, number: int, prompt_blocks: int, hit_blocks: int = 0) -> list[Command]:
    prompt_tokens = prompt_blocks * BLOCK_TOKENS - 1  # with one token of output, still so many blocks
    return scheduler.handle(TurnDue(0, Request(number, number, 0, prompt_tokens, 1, hit_blocks)))


def admitted(commands: list[Command]) -> list[int]:
    return [command.request for command in commands if isinstance(command, Admit)]


def compute(scheduler: Scheduler, engine: int, batch: int) -> list[Command]:
    """A whole batch: computed, and sent."""
    return scheduler.handle(PrefillComputed(0, engine, batch, 0)) + scheduler.handle(PrefillSent(0, engine, batch))


def test_the_decode_route_goes_on_while_others_wait_for_pe_memory() -> None:
    """One pair of engines; requests are read PE, DE, PE, DE."""
    scheduler = Scheduler(small_cluster(prefill_buffer=12), ARMS["dualpath-rr"])
    assert [admitted(due(scheduler, number, 11, 10)) for number in range(4)] == [[0], [1], [], [3]]
    assert books.buffer_used(scheduler.state) == [10, 33]
    scheduler.handle(ReadDone(0, 0, "prefill"))
    assert admitted(compute(scheduler, 0, 0)) == [2]
    assert books.buffer_used(scheduler.state) == [10, 44]


def test_a_request_that_waits_for_pe_memory_holds_no_de_buffer() -> None:
    """Nor a place in the queue for it: a small request at the other PE goes ahead."""
    scheduler = Scheduler(small_cluster(prefill=(2, 1), prefill_buffer=12, decode_buffer=25), ARMS["layerwise"])
    assert [admitted(due(scheduler, number, 11, 10)) for number in range(2)] == [[0], [1]]
    assert admitted(due(scheduler, 2, 11, 10)) == []  # PE 0 again
    assert books.buffer_used(scheduler.state) == [10, 10, 22]
    assert admitted(due(scheduler, 3, 3, 2)) == [3]  # PE 1
    assert books.buffer_used(scheduler.state) == [10, 12, 25]


def test_a_request_waits_for_de_buffer_with_its_pe_memory_in_hand() -> None:
    scheduler = Scheduler(small_cluster(prefill_buffer=12, decode_buffer=12), ARMS["layerwise"])
    assert admitted(due(scheduler, 0, 5)) == [0]  # cold: no PE memory
    assert admitted(due(scheduler, 1, 9, 8)) == []
    assert books.buffer_used(scheduler.state) == [8, 5]
    assert admitted(due(scheduler, 2, 6, 5)) == []  # 5 blocks of the PE's 12 are not left
    assert books.buffer_used(scheduler.state) == [8, 5]
    compute(scheduler, 0, 0)
    assert admitted(scheduler.handle(BufferFreed(0, 0))) == [1]
    assert books.buffer_used(scheduler.state) == [8, 9]


def test_de_buffer_goes_to_who_asked_first_though_a_later_one_would_fit() -> None:
    scheduler = Scheduler(small_cluster(decode_buffer=12), ARMS["dualpath"])
    assert [admitted(due(scheduler, number, blocks)) for number, blocks in enumerate([10, 5, 1])] == [[0], [], []]
    compute(scheduler, 0, 0)
    assert admitted(scheduler.handle(BufferFreed(0, 0))) == [1, 2]


def test_pe_memory_goes_to_who_asked_first_though_a_later_one_would_fit() -> None:
    scheduler = Scheduler(small_cluster(prefill_buffer=12), ARMS["layerwise"])
    sizes = [(11, 10), (6, 5), (2, 1)]
    assert [admitted(due(scheduler, number, *size)) for number, size in enumerate(sizes)] == [[0], [], []]
    scheduler.handle(ReadDone(0, 0, "prefill"))
    assert admitted(compute(scheduler, 0, 0)) == [1, 2]


def test_a_free_buffer_is_not_held_back_by_a_request_that_waits_for_another() -> None:
    """Two DEs: a request short of DE buffer on one does not stop later requests that use the other."""
    cluster = small_cluster(prefill=(1, 1), decode=(2, 1), decode_buffer=12)
    scheduler = Scheduler(cluster, ARMS["dualpath-rr"])  # DEs in turn
    assert [admitted(due(scheduler, n, blocks)) for n, blocks in enumerate([12, 1, 12, 1])] == [[0], [1], [], [3]]


def test_requests_placed_together_ask_one_by_one() -> None:
    """A turn's end makes room for three: each has its route and its memory before the next one's route is chosen."""
    scheduler = Scheduler(small_cluster(decode_hbm=12), ARMS["split"])
    for number, (prompt_blocks, hit_blocks) in enumerate([(12, 0), (6, 2), (5, 4), (1, 0)]):
        due(scheduler, number, prompt_blocks, hit_blocks)
    compute(scheduler, 0, 0)
    scheduler.handle(BufferFreed(0, 0))
    commands = scheduler.handle(TurnEnded(0, 0, None, 0, None))
    chunk = Chunk(3, 0, BLOCK_TOKENS - 1, True)
    assert commands == [
        Assigned(1, 0, 1, 1, 1, 0, 0),
        Admit(1),
        Read(1, "prefill", 0, 0, 1),
        Read(1, "decode", 1, 1, 1),
        Assigned(2, 0, 1, 2, 2, BLOCK_TOKENS, BLOCK_TOKENS),
        Admit(2),
        Read(2, "prefill", 0, 0, 2),
        Read(2, "decode", 1, 2, 2),
        Assigned(3, 0, 1, 0, 0, 3 * BLOCK_TOKENS, 3 * BLOCK_TOKENS),
        Admit(3),
        Prefill(0, 1, (chunk,)),
    ]


@pytest.mark.parametrize("arm", WHOLE_ARMS)
def test_whole_requests_hold_prefill_hbm_until_their_kv_has_left(arm: str) -> None:
    """From the grant on, hit or miss, computed or not; one that finds no room waits, though buffers are free."""
    scheduler = Scheduler(small_cluster(prefill_hbm=12), ARMS[arm])
    assert admitted(due(scheduler, 0, 8, 3)) == [0]
    assert books.hbm_used(scheduler.state) == [8, 8]
    assert admitted(due(scheduler, 1, 5)) == []
    assert admitted(due(scheduler, 2, 4)) == [], "first come, first served"
    scheduler.handle(ReadDone(0, 0, "prefill"))
    assert admitted(scheduler.handle(PrefillComputed(0, 0, 0, 0))) == []
    assert books.hbm_used(scheduler.state)[0] == 8
    assert admitted(scheduler.handle(PrefillSent(0, 0, 0))) == [1, 2]
    assert books.hbm_used(scheduler.state)[0] == 9


@pytest.mark.parametrize("arm", WHOLE_ARMS)
def test_prefill_hbm_is_held_while_a_request_waits_for_de_buffer(arm: str) -> None:
    scheduler = Scheduler(small_cluster(prefill_hbm=12, decode_buffer=12), ARMS[arm])
    assert [admitted(due(scheduler, number, blocks)) for number, blocks in enumerate([7, 5])] == [[0], [1]]
    assert admitted(due(scheduler, 2, 5)) == []
    assert admitted(compute(scheduler, 0, 0)) == []  # PE memory now; DE buffer only when one is freed
    assert books.hbm_used(scheduler.state)[0] == 10
    assert admitted(scheduler.handle(BufferFreed(0, 0))) == [2]


@pytest.mark.parametrize("arm", LAYERWISE_ARMS)
def test_layerwise_requests_hold_no_prefill_hbm(arm: str) -> None:
    scheduler = Scheduler(small_cluster(prefill_hbm=12), ARMS[arm])
    assert [admitted(due(scheduler, number, 12)) for number in range(3)] == [[0], [1], [2]]
    assert books.hbm_used(scheduler.state)[0] == 0
    assert Decode(0, 1) in compute(scheduler, 0, 0)
