"""An engine that answers after known delays: what the harness then measures can be held against what is known.

It stamps, as engines do, when a thing happened, so an answer that its own alarm gave late counts as later.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable

from dualpath.engine.messages import (
    BatchComputed,
    BatchSent,
    BlockRef,
    BlocksRead,
    BufferReleased,
    EngineSetup,
    PrefillBatch,
    ReadBlocks,
    StartDecode,
    TurnDone,
)
from dualpath.engine.null_engine import NOWHERE, NullEngine
from dualpath.engine.serve import Outbox, run_process


class StubEngine(NullEngine):
    """Takes everything in hand at once, however much it is."""

    def __init__(self, setup: EngineSetup, outbox: Outbox) -> None:
        assert setup.delays is not None, "who starts a stub says how late it is to be"
        super().__init__(setup, outbox)
        self._delays = setup.delays
        self._alarms = Alarms()

    def start(self, zero_ns: int) -> None:
        super().start(zero_ns)
        threading.Thread(target=self._alarms.run, name="alarms", daemon=True).start()

    def submit(self, message: ReadBlocks | PrefillBatch | StartDecode) -> None:
        now_ns = time.monotonic_ns()
        match message:
            case ReadBlocks():
                self._alarms.set(now_ns + self._delays.read_ns, lambda at_ns: self._read(message, at_ns))
            case PrefillBatch():
                computed_ns = now_ns + self._delays.first_token_ns
                self._alarms.set(computed_ns, lambda at_ns: self._computed(message, now_ns, at_ns))
            case StartDecode():
                self._emit(BufferReleased(now_ns - self._zero_ns, message.request))
                self._decode(message, now_ns)

    def _read(self, message: ReadBlocks, at_ns: int) -> None:
        self._emit(BlocksRead(at_ns - self._zero_ns, message.request, self._engine))

    def _computed(self, message: PrefillBatch, start_ns: int, at_ns: int) -> None:
        firsts = [(chunk.request, 0) for chunk in message.chunks if chunk.last]
        self._emit(BatchComputed(at_ns - self._zero_ns, start_ns - self._zero_ns, message.batch, firsts))
        sent_ns = at_ns + self._delays.handover_ns
        self._alarms.set(sent_ns, lambda at_ns: self._emit(BatchSent(at_ns - self._zero_ns, message.batch)))

    def _decode(self, message: StartDecode, now_ns: int) -> None:
        more_tokens = len(message.output_ids) // 4 - 1
        stored = [BlockRef(key, NOWHERE) for key in message.keys[message.hit_blocks :]]
        if not more_tokens:
            t_ns = now_ns - self._zero_ns
            self._emit(TurnDone(t_ns, message.request, None, message.first_token_ns, 0, stored))
            return
        second_ns = 0

        def second(at_ns: int) -> None:
            nonlocal second_ns
            second_ns = at_ns - self._zero_ns

        def last(at_ns: int) -> None:
            t_ns = at_ns - self._zero_ns
            self._emit(TurnDone(t_ns, message.request, second_ns, t_ns, 0, stored))

        self._alarms.set(now_ns + self._delays.token_ns, second)
        self._alarms.set(now_ns + more_tokens * self._delays.token_ns, last)


class Alarms:
    """Actions at set times of the monotonic clock, never early, in the order of their times and then as they were set.
    They are told when it was."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Callable[[int], None]]] = []
        self._count = itertools.count()
        self._changed = threading.Condition()

    def set(self, due_ns: int, action: Callable[[int], None]) -> None:
        with self._changed:
            heapq.heappush(self._heap, (due_ns, next(self._count), action))
            self._changed.notify()

    def run(self) -> None:
        """For ever."""
        while True:
            with self._changed:
                while (left_ns := self._left_ns()) is None or left_ns > 0:
                    self._changed.wait(None if left_ns is None else left_ns / 1e9)
                _, _, action = heapq.heappop(self._heap)
            action(time.monotonic_ns())

    def _left_ns(self) -> int | None:
        """Until the first one; None: there is none."""
        return self._heap[0][0] - time.monotonic_ns() if self._heap else None


def run(setup: EngineSetup) -> None:
    run_process(setup, StubEngine)
