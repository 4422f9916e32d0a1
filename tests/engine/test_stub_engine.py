"""The stub answers as an engine does, never before its time."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import msgspec
from dualpath.engine.messages import (
    BatchComputed,
    BatchSent,
    BlocksRead,
    BufferReleased,
    ChunkWork,
    Delays,
    EngineSetup,
    Message,
    PrefillBatch,
    ReadBlocks,
    StartDecode,
    TurnDone,
)
from dualpath.engine.serve import Outbox
from dualpath.engine.stub_engine import Alarms, StubEngine

MS = 1_000_000
DELAYS = Delays(read_ns=3 * MS, first_token_ns=5 * MS, handover_ns=2 * MS, token_ns=1 * MS)


class Inbox(Outbox):
    """Messages as they are put."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.changed = threading.Condition()

    def put(self, message: Message) -> None:
        with self.changed:
            self.messages.append(message)
            self.changed.notify()

    def wait(self, count: int) -> list[Message]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.messages) >= count, timeout=60)
            return self.messages


def started(inbox: Inbox) -> StubEngine:
    anything: Any = dict.fromkeys(EngineSetup.__struct_fields__)
    stub = StubEngine(EngineSetup(**{**anything, "engine": 1, "delays": DELAYS}), inbox)
    stub.start(time.monotonic_ns())
    return stub


def test_alarms_go_off_in_order_and_never_early() -> None:
    alarms, rng = Alarms(), random.Random(3)
    begin_ns = time.monotonic_ns()
    due = [begin_ns + rng.randrange(30) * MS for _ in range(200)]
    rang: list[tuple[int, int, int]] = []
    over = threading.Event()
    for index, due_ns in enumerate(due):
        alarms.set(due_ns, lambda at_ns, index=index, due_ns=due_ns: rang.append((due_ns, index, at_ns)))
    alarms.set(begin_ns + 60 * MS, lambda at_ns: over.set())
    threading.Thread(target=alarms.run, daemon=True).start()
    assert over.wait(60)
    assert [ring[:2] for ring in rang] == sorted((due_ns, index) for index, due_ns in enumerate(due))
    assert all(at_ns >= due_ns for due_ns, _, at_ns in rang)


def test_what_an_engine_says_of_a_batch_and_of_a_read() -> None:
    inbox = Inbox()
    stub = started(inbox)
    chunk = ChunkWork(7, 0, b"\0" * 8, True, 0, 0, [], 1, [], [])
    stub.submit(PrefillBatch(4, [chunk, msgspec.structs.replace(chunk, request=8, last=False)]))
    computed, sent = inbox.wait(2)
    assert isinstance(computed, BatchComputed)
    assert (computed.batch, computed.first_tokens) == (4, [(7, 0)])
    assert computed.t_ns - computed.start_ns >= DELAYS.first_token_ns
    assert isinstance(sent, BatchSent)
    assert sent.t_ns - computed.t_ns >= DELAYS.handover_ns
    stub.submit(ReadBlocks(9, 0, [], [], 0, 1))
    read = inbox.wait(3)[2]
    assert isinstance(read, BlocksRead)
    assert (read.request, read.engine) == (9, 1)


def test_what_an_engine_says_of_a_turn() -> None:
    inbox = Inbox()
    stub = started(inbox)
    work = StartDecode(7, 10, 1, 0, 0, [], [], 0, 123, b"\0" * 4 * 6, [b"hit", b"new"], [])
    stub.submit(work)
    freed, done = inbox.wait(2)
    assert isinstance(freed, BufferReleased)
    assert isinstance(done, TurnDone)
    assert [ref.key for ref in done.stored] == [b"new"]
    assert done.second_token_ns is not None
    assert done.second_token_ns - freed.t_ns >= DELAYS.token_ns
    assert done.end_ns - freed.t_ns >= 5 * DELAYS.token_ns
    stub.submit(msgspec.structs.replace(work, output_ids=b"\0" * 4))
    alone = inbox.wait(4)[3]
    assert isinstance(alone, TurnDone)
    assert (alone.second_token_ns, alone.end_ns) == (None, work.first_token_ns)
