"""The process that reads storage for an engine, which forks it (storage_client.py).

Here are no model and no GPU; the engine's buffer and the links are shared memory. Ends when the engine says so, or is
gone.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection

import msgspec

from dualpath.core.cluster import Cluster
from dualpath.engine.block_reader import QueuedReader
from dualpath.engine.data_path import DataPath
from dualpath.engine.geometry import buffer_bytes, store_layout
from dualpath.engine.huge_pages import in_huge_pages
from dualpath.engine.messages import (
    BlocksRead,
    EngineSetup,
    Failed,
    Hello,
    LinkRow,
    ReadBlocks,
    Shutdown,
    StartClock,
    Summary,
    ToStorage,
)
from dualpath.engine.meter import Meter
from dualpath.engine.pacer import Pacer
from dualpath.engine.serve import failed
from dualpath.engine.store import BlockReader


class StorageProcess:
    def __init__(self, connection: Connection, setup: EngineSetup) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._setup = setup

    def run(self) -> None:
        """Until told to shut down. Raises EOFError where the engine is gone."""
        setup = self._setup
        cluster = msgspec.msgpack.decode(setup.cluster, type=Cluster)
        meter = Meter()
        path = DataPath(cluster, Pacer.attach(setup.pacer_fd), meter)
        memory = mmap.mmap(setup.buffer_fds[setup.engine], buffer_bytes(cluster, setup.engine))
        buffer = memoryview(in_huge_pages(memory))
        reader = BlockReader(setup.store_directory, store_layout(cluster))
        reads = QueuedReader(cluster, setup.engine, path, buffer, reader, self._send, verify=setup.verify)
        self._send(Hello(setup.engine))
        decoder = msgspec.msgpack.Decoder(ToStorage)
        while True:
            match decoder.decode(self._connection.recv_bytes()):
                case StartClock(zero_ns=zero_ns):
                    path.zero_ns = zero_ns
                    reads.start(self._spawn)
                case ReadBlocks() as message:
                    reads.submit(message)
                case Shutdown():
                    rows = [LinkRow(**row) for row in meter.rows()]
                    self._send(Summary(setup.engine, reader.direct, reader.direct_reason, rows, reads.checked))
                    return

    def tell(self, error: BaseException) -> None:
        """Why there will be no more reads; the engine may be gone."""
        with contextlib.suppress(ConnectionError):
            self._send(failed(self._setup.engine, error))

    def _send(self, message: Hello | BlocksRead | Failed | Summary) -> None:
        with self._sending:
            self._connection.send_bytes(msgspec.msgpack.encode(message))

    def _spawn(self, name: str, body: Callable[[], None]) -> None:
        threading.Thread(target=partial(self._guard, body), name=name, daemon=True).start()

    def _guard(self, body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as error:  # the thread's boundary: a failure becomes a message, never a hang
            self.tell(error)


def serve(connection: Connection, setup: EngineSetup) -> None:
    """The whole life of the process. Does not return."""
    process = StorageProcess(connection, setup)
    try:
        process.run()
    except (EOFError, ConnectionError):  # the engine is gone
        pass
    except Exception as error:  # the process's boundary
        process.tell(error)
    os._exit(0)  # daemon threads may be inside native code
