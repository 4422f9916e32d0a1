"""Storage reads of one engine: Full Blocks into slots of its buffer, in order, several in flight."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from dualpath.core.cluster import Cluster
from dualpath.core.hops import Route, Stage
from dualpath.engine.completion import Done
from dualpath.engine.data_path import DataPath
from dualpath.engine.geometry import BlockGeometry
from dualpath.engine.messages import BlockRef, BlocksRead, CheckedBlock, ReadBlocks
from dualpath.engine.store import BlockReader


class QueuedReader:
    """Reads requests' blocks first in, first out. `submit` returns at once; `emit` gets BlocksRead."""

    def __init__(
        self,
        cluster: Cluster,
        engine: int,
        path: DataPath,
        buffer: memoryview,
        reader: BlockReader,
        emit: Callable[[BlocksRead], None],
        *,
        verify: bool,
    ) -> None:
        self._cluster = cluster
        self._engine = engine
        self._path = path
        self._buffer = buffer
        self._reader = reader
        self._emit = emit
        self._verify = verify
        self._geometry = BlockGeometry.of(cluster)
        role = cluster.role_of(engine)
        self._stage: Stage = "read-prefill" if role == "prefill" else "read-decode"
        self._route: Route = role
        self._label = f"{role} route, {role} engine {engine}"
        self._queue: queue.SimpleQueue[tuple[ReadBlocks, int]] = queue.SimpleQueue()
        self._left: dict[int, int] = {}  # request -> blocks not read yet
        self._lock = threading.Lock()
        self.checked: list[CheckedBlock] = []

    def start(self, spawn: Callable[[str, Callable[[], None]], None]) -> None:
        """Run `cluster.read_in_flight` reads at a time. spawn(name, body) starts a thread."""
        for number in range(self._cluster.read_in_flight):
            spawn(f"reader-{number}", self._read_forever)

    def submit(self, message: ReadBlocks) -> None:
        self._left[message.request] = len(message.blocks)
        for position in range(len(message.blocks)):
            self._queue.put((message, position))

    def _read_forever(self) -> None:
        while True:
            message, position = self._queue.get()
            found = self._read(message, message.blocks[position], message.slots[position])
            if self._verify:
                self._note(message, position, found)
            with self._lock:
                self._left[message.request] -= 1
                done = not self._left[message.request]
                if done:
                    del self._left[message.request]
            if done:
                self._emit(BlocksRead(time.monotonic_ns() - self._path.zero_ns, message.request, self._engine))

    def _read(self, message: ReadBlocks, ref: BlockRef, slot: int) -> int:
        """Returns the checksum found. Raises CorruptBlockError unless it is the one written with the block."""
        start = self._geometry.slot_offset(slot)
        into = self._buffer[start : start + self._geometry.stride_bytes]
        found: list[int] = []

        def copy() -> Done:
            found.append(self._reader.read(ref.key, ref.location, into, path=self._label))
            return Done(self._reader.layout.block_bytes)

        self._path.move(
            self._stage,
            self._route,
            self._cluster.block_tokens,
            self._cluster.model.layers,
            message.prefill_engine,
            message.decode_engine,
            copy,
        )
        return found[0]

    def _note(self, message: ReadBlocks, position: int, found: int) -> None:
        ref, block = message.blocks[position], message.first_block + position
        self.checked.append(
            CheckedBlock(message.request, block, ref.key, "storage", self._route, ref.location.checksum, found)
        )
