"""An engine that completes every command at once: what is left to measure is the harness itself."""

from __future__ import annotations

import time

from dualpath.engine.messages import (
    BatchComputed,
    BatchSent,
    BlockRef,
    BlocksRead,
    BufferReleased,
    Connect,
    Connected,
    EngineSetup,
    Hello,
    PrefillBatch,
    ReadBlocks,
    StartDecode,
    Summary,
    TurnDone,
)
from dualpath.engine.serve import Outbox, run_process
from dualpath.engine.store import Location

NOWHERE = Location("null", 0, 0)  # where the blocks are that nobody stored


class NullEngine:
    """Answers in the order of the messages; touches no KV, no file and no model."""

    def __init__(self, setup: EngineSetup, outbox: Outbox) -> None:
        self._engine = setup.engine
        self._emit = outbox.put
        self._zero_ns = 0

    def start(self, zero_ns: int) -> None:
        self._zero_ns = zero_ns

    def hello(self) -> Hello:
        return Hello(self._engine)

    def connect(self, message: Connect) -> Connected:
        return Connected(self._engine)

    def summary(self) -> Summary:
        return Summary(self._engine, None, "", [], [])

    def close(self) -> None:
        pass

    def submit(self, message: ReadBlocks | PrefillBatch | StartDecode) -> None:
        t_ns = time.monotonic_ns() - self._zero_ns
        match message:
            case ReadBlocks():
                self._emit(BlocksRead(t_ns, message.request, self._engine))
            case PrefillBatch():
                firsts = [(chunk.request, 0) for chunk in message.chunks if chunk.last]
                self._emit(BatchComputed(t_ns, t_ns, message.batch, firsts))
                self._emit(BatchSent(t_ns, message.batch))
            case StartDecode():
                stored = [BlockRef(key, NOWHERE) for key in message.keys[message.hit_blocks :]]
                second_ns = t_ns if len(message.output_ids) > 4 else None
                self._emit(BufferReleased(t_ns, message.request))
                self._emit(TurnDone(t_ns, message.request, second_ns, t_ns, 0, stored))


def run(setup: EngineSetup) -> None:
    run_process(setup, NullEngine)
