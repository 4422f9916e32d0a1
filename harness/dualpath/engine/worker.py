"""The process of one engine: `python -m dualpath.engine.worker`, set up by a message on standard input.

The main thread speaks with the coordinator; the work is done by the threads of the engine's parts. Any failure in any
of them is told to the coordinator, which ends the run.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from functools import partial

import msgspec
import torch
import zmq

from dualpath.core.cluster import Cluster
from dualpath.engine.block_reader import QueuedReader
from dualpath.engine.data_path import DataPath
from dualpath.engine.decode_engine import DecodeEngine
from dualpath.engine.geometry import buffer_bytes, store_layout
from dualpath.engine.messages import (
    TOKEN_VARIABLE,
    CheckedBlock,
    EngineSetup,
    Failed,
    Hello,
    LinkRow,
    Message,
    PrefillBatch,
    ReadBlocks,
    Shutdown,
    StartClock,
    StartDecode,
    Summary,
    ToEngine,
    identity,
)
from dualpath.engine.meter import Meter
from dualpath.engine.model import Model
from dualpath.engine.null_engine import NullEngine
from dualpath.engine.pacer import Pacer
from dualpath.engine.prefill_engine import PrefillEngine
from dualpath.engine.shared_buffer import SharedBuffer
from dualpath.engine.store import BlockReader, SegmentWriter
from dualpath.engine.transport import SharedMemoryTransport

_ORPHAN_CHECK_MS = 500


class Outbox:
    """Messages from an engine's threads to its main thread, which alone may touch the socket."""

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


class Engine:
    """The parts of one engine, wired."""

    def __init__(self, setup: EngineSetup, outbox: Outbox) -> None:
        cluster = msgspec.msgpack.decode(setup.cluster, type=Cluster)
        engine = setup.engine
        self._outbox = outbox
        self._setup = setup
        self._meter = Meter()
        self.path = DataPath(cluster, Pacer.attach(setup.pacer_fd), self._meter)
        transport = SharedMemoryTransport()
        buffers = {
            peer: SharedBuffer(fd, buffer_bytes(cluster, peer)) for peer, fd in enumerate(setup.buffer_fds) if fd >= 0
        }
        for peer, buffer in buffers.items():
            register = transport.register if peer == engine else transport.connect
            register(f"buffer/{peer}", buffer.tensor)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = Model(cluster.model, setup.seed, device)
        layout = store_layout(cluster)
        self._reader = BlockReader(setup.store_directory, layout)
        self._writer: SegmentWriter | None = None
        self.reads = QueuedReader(
            cluster, engine, self.path, buffers[engine], self._reader, outbox.put, verify=setup.verify
        )
        self.prefill: PrefillEngine | None = None
        self.decode: DecodeEngine | None = None
        if cluster.role_of(engine) == "prefill":
            self.prefill = PrefillEngine(
                cluster,
                engine,
                model,
                transport,
                self.path,
                outbox.put,
                layerwise=setup.layerwise,
                moves_kv=setup.moves_kv,
                deterministic=setup.deterministic,
                verify=setup.verify,
            )
        else:
            self._writer = SegmentWriter(
                setup.store_directory,
                layout,
                f"engine-{engine}",
                durable="disk" if setup.durable == "disk" else "process",
            )
            self.decode = DecodeEngine(
                cluster,
                engine,
                model,
                transport,
                self.path,
                buffers[engine],
                self._writer,
                outbox.put,
                moves_kv=setup.moves_kv,
                deterministic=setup.deterministic,
                verify=setup.verify,
            )

    def start(self, zero_ns: int) -> None:
        """Set the run's clock and start working."""
        self.path.zero_ns = zero_ns
        self.reads.start(self._spawn)
        if self.prefill is not None:
            self.prefill.start(self._spawn)
        if self.decode is not None:
            self.decode.start(self._spawn)

    def submit(self, message: ReadBlocks | PrefillBatch | StartDecode) -> None:
        match message:
            case ReadBlocks():
                self.reads.submit(message)
            case PrefillBatch():
                assert self.prefill is not None
                self.prefill.submit(message)
            case StartDecode():
                assert self.decode is not None
                self.decode.submit(message)

    def hello(self) -> Hello:
        writer = self._writer
        if writer is None:
            return Hello(self._setup.engine, True, "")
        return Hello(self._setup.engine, writer.direct, writer.direct_reason or "")

    def summary(self) -> Summary:
        checked: list[CheckedBlock] = list(self.reads.checked)
        for part in (self.prefill, self.decode):
            checked += part.checked if part is not None else []
        return Summary(self._setup.engine, [LinkRow(**row) for row in self._meter.rows()], checked)

    def _spawn(self, name: str, body: Callable[[], None]) -> None:
        threading.Thread(target=partial(self._guard, body), name=name, daemon=True).start()

    def _guard(self, body: Callable[[], None]) -> None:
        try:
            with torch.inference_mode():
                body()
        except BaseException as error:  # the thread's boundary: a failure becomes a message, never a hang
            self._outbox.put(failed(self._setup.engine, error))


def failed(engine: int, error: BaseException) -> Failed:
    return Failed(engine, type(error).__name__, str(error) or repr(error), traceback.format_exc())


def serve(engine: Engine | NullEngine, outbox: Outbox, socket: zmq.Socket[bytes], parent_pid: int) -> None:
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
            case StartClock(zero_ns=zero_ns):
                engine.start(zero_ns)
            case Shutdown():
                socket.send(msgspec.msgpack.encode(engine.summary()))
                return
            case message:
                engine.submit(message)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the coordinator's to handle
    setup = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=EngineSetup)
    torch.set_num_threads(1)
    sys.setswitchinterval(0.0005)  # the computing thread must not wait 5 ms for each short step of the others
    context = zmq.Context[zmq.Socket[bytes]](io_threads=1)
    socket = context.socket(zmq.DEALER)
    socket.linger = 2_000
    socket.identity = identity(setup.engine, os.environ[TOKEN_VARIABLE])
    socket.connect(setup.address)
    try:
        outbox = Outbox()
        engine = NullEngine(setup.engine, outbox.put) if setup.null else Engine(setup, outbox)
        socket.send(msgspec.msgpack.encode(engine.hello()))
        serve(engine, outbox, socket, setup.parent_pid)
    except Exception as error:  # the process's boundary
        socket.send(msgspec.msgpack.encode(failed(setup.engine, error)))
    finally:
        socket.close()
        context.term()
    os._exit(0)  # daemon threads may be inside native code; everything is flushed


if __name__ == "__main__":
    main()
