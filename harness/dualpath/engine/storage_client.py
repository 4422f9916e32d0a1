"""An engine's reads from storage, done by a process of its own.

The threads that read would share an interpreter with those that feed a GPU, layer by layer: at 6 GB/s each of them
then waits longer for the interpreter than for its bytes.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

import msgspec

from dualpath.core.errors import WorkerError
from dualpath.engine.forked import forked
from dualpath.engine.messages import (
    BlocksRead,
    EngineSetup,
    Failed,
    FromStorage,
    Hello,
    ReadBlocks,
    Shutdown,
    StartClock,
    Summary,
    ToStorage,
)
from dualpath.engine.storage_process import serve


class StorageClient:
    """`submit` returns at once; BlocksRead comes, or why there will be none."""

    def __init__(self, setup: EngineSetup) -> None:
        """Forks the process, and so wants to be called before there are threads; see `ready`."""
        self._engine = setup.engine
        self._sending = threading.Lock()
        self._summary: queue.SimpleQueue[Summary | None] = queue.SimpleQueue()
        here, there = socket.socketpair()

        def become() -> None:
            here.close()
            serve(Connection(there.detach()), setup)

        self._process = forked(f"storage-{setup.engine}", become)
        self._waiting = threading.Lock()  # or one of two that wait for its end is told nothing of it
        there.close()
        self._connection = Connection(here.detach())

    def ready(self, emit: Callable[[BlocksRead | Failed], None]) -> None:
        """Wait until it is. emit: who wants to hear of reads. Raises WorkerError."""
        self._emit = emit
        match self._receive():
            case Hello():
                pass
            case Failed() as failed:
                self._emit(failed)
            case other:
                raise AssertionError(f"{other} before Hello")

    def start(self, zero_ns: int, spawn: Callable[[str, Callable[[], None]], None]) -> None:
        """Set the run's clock and start reading. spawn(name, body) starts a thread."""
        self._send(StartClock(zero_ns))
        spawn("storage-client", self._listen)

    def submit(self, message: ReadBlocks) -> None:
        self._send(message)

    def summary(self) -> Summary:
        """Of the reads, which end with it. Raises WorkerError where the process has ended before."""
        self._send(Shutdown())
        summary = self._summary.get()
        if summary is None:
            raise WorkerError(self._ended())
        return summary

    def close(self) -> None:
        """No process is left."""
        self._process.kill()
        with self._waiting:
            self._process.join()

    def _listen(self) -> None:
        try:
            while not isinstance(message := self._receive(), Summary):
                assert not isinstance(message, Hello), "Hello is said once"
                self._emit(message)
            self._summary.put(message)
        except BaseException:
            self._summary.put(None)
            raise

    def _send(self, message: ToStorage) -> None:
        try:
            with self._sending:
                self._connection.send_bytes(msgspec.msgpack.encode(message))
        except OSError as error:
            raise WorkerError(self._ended()) from error

    def _receive(self) -> FromStorage:
        try:
            message: FromStorage = msgspec.msgpack.decode(self._connection.recv_bytes(), type=FromStorage)
            return message
        except (EOFError, OSError) as error:
            raise WorkerError(self._ended()) from error

    def _ended(self) -> str:
        with self._waiting:
            self._process.join()
        status = self._process.exitcode or 0
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return f"the storage process of engine {self._engine} (pid {self._process.pid}) {how}"
