"""The process around an engine: told what to do over a socket.

The main thread speaks with the coordinator and alone may touch the socket; the engine's own threads leave their
messages in the outbox. Not aware of what an engine does.
"""

from __future__ import annotations

import gc
import os
import queue
import sys
import traceback
from collections.abc import Callable
from typing import Protocol

import msgspec
import zmq

from dualpath.engine.messages import (
    Connect,
    Connected,
    EngineSetup,
    Failed,
    Hello,
    Message,
    PrefillBatch,
    ReadBlocks,
    Shutdown,
    StartClock,
    StartDecode,
    Summary,
    ToEngine,
)
from dualpath.engine.wire import TOKEN_VARIABLE, engine_identity, join

_ORPHAN_CHECK_MS = 500


class Outbox:
    """Messages from an engine's threads to its main thread."""

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def put(self, message: Message) -> None:
        self._messages.put(message)
        os.eventfd_write(self.fd, 1)

    def drain(self) -> list[Message]:
        os.eventfd_read(self.fd)
        messages: list[Message] = []
        while not self._messages.empty():
            messages.append(self._messages.get())
        return messages


class Served(Protocol):
    """An engine, real or null. All methods return at once; what happens is put into the outbox."""

    def hello(self) -> Hello: ...

    def connect(self, message: Connect) -> Connected:
        """Reach the engines on the other side. Raises WorkerError."""

    def start(self, zero_ns: int) -> None:
        """Set the run's clock (CLOCK_MONOTONIC at its time 0) and start working."""

    def submit(self, message: ReadBlocks | PrefillBatch | StartDecode) -> None: ...

    def summary(self) -> Summary: ...

    def close(self) -> None:
        """Give back what the process's end would not give back in order."""


def failed(engine: int, error: BaseException) -> Failed:
    return Failed(engine, type(error).__name__, str(error) or repr(error), traceback.format_exc())


def run_process(setup: EngineSetup, build: Callable[[EngineSetup, Outbox], Served]) -> None:
    """The whole life of an engine's process. Does not return."""
    sys.setswitchinterval(0.0005)  # the computing thread must not wait 5 ms for each short step of the others
    context = zmq.Context[zmq.Socket[bytes]](io_threads=1)
    socket = join(context, setup.address, os.environ[TOKEN_VARIABLE], engine_identity(setup.engine, setup.run))
    socket.linger = 10_000  # the last message of a long run is megabytes
    try:
        outbox = Outbox()
        engine = build(setup, outbox)
        gc.collect()
        gc.freeze()  # or full collections walk all that was imported, and every thread stands still for 0.1 s
        socket.send(msgspec.msgpack.encode(engine.hello()))
        _serve(engine, outbox, socket, setup.parent_pid)
    except Exception as error:  # the process's boundary
        socket.send(msgspec.msgpack.encode(failed(setup.engine, error)))
    finally:
        socket.close()
        context.term()
    os._exit(0)  # daemon threads may be inside native code; everything is flushed


def _serve(engine: Served, outbox: Outbox, socket: zmq.Socket[bytes], parent_pid: int) -> None:
    """Until told to shut down, or left alone."""
    decoder = msgspec.msgpack.Decoder(ToEngine)
    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    poller.register(outbox.fd, zmq.POLLIN)
    while os.getppid() == parent_pid:
        ready = dict(poller.poll(_ORPHAN_CHECK_MS))
        if outbox.fd in ready:
            for message in outbox.drain():
                socket.send(msgspec.msgpack.encode(message))
        if socket not in ready:
            continue
        match decoder.decode(socket.recv()):
            case Connect() as message:
                socket.send(msgspec.msgpack.encode(engine.connect(message)))
            case StartClock(zero_ns=zero_ns):
                engine.start(zero_ns)
            case Shutdown():
                socket.send(msgspec.msgpack.encode(engine.summary()))
                engine.close()
                return
            case message:
                engine.submit(message)
