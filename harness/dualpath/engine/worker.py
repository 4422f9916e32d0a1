"""One engine, wired.

The work is done by the threads of the engine's parts. Any failure in any of them is told to the coordinator, which
ends the run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import msgspec
import torch

from dualpath.core.cluster import Cluster
from dualpath.engine.block_copy import warm_up
from dualpath.engine.data_path import DataPath
from dualpath.engine.decode_engine import DecodeEngine
from dualpath.engine.devices import best_device
from dualpath.engine.geometry import buffer_bytes, store_layout
from dualpath.engine.messages import (
    CheckedBlock,
    Connect,
    Connected,
    EngineSetup,
    Hello,
    LinkRow,
    PrefillBatch,
    ReadBlocks,
    StartDecode,
    Summary,
)
from dualpath.engine.meter import Meter
from dualpath.engine.models.checkpoint import load_model
from dualpath.engine.models.model import Model
from dualpath.engine.network import NetworkSettings, NixlSettings
from dualpath.engine.nixl_transport import NixlTransport
from dualpath.engine.pacer import Lane, Pacer
from dualpath.engine.port_meter import PortMeter
from dualpath.engine.prefill_engine import PrefillEngine
from dualpath.engine.serve import Outbox, failed, run_process
from dualpath.engine.shared_buffer import SharedBuffer
from dualpath.engine.shared_weights import shared_weights
from dualpath.engine.storage_client import StorageClient
from dualpath.engine.store import SegmentWriter
from dualpath.engine.transport import NetworkTransport, SharedMemoryTransport, Transport
from dualpath.engine.verbs_transport import VerbsTransport


class Engine:
    """The parts of one engine, wired."""

    def __init__(self, setup: EngineSetup, outbox: Outbox, storage: StorageClient) -> None:
        torch.set_num_threads(1)
        cluster = msgspec.msgpack.decode(setup.cluster, type=Cluster)
        engine = setup.engine
        self._outbox = outbox
        self._setup = setup
        self._meter = Meter()
        self._storage = storage
        self.path = DataPath(cluster, Pacer.attach(setup.pacer_fd), self._meter)
        buffers = {
            peer: SharedBuffer(fd, buffer_bytes(cluster, peer)) for peer, fd in enumerate(setup.buffer_fds) if fd >= 0
        }
        self._network = _network(cluster, engine, setup.network)
        transport: Transport = self._network or SharedMemoryTransport()
        for peer, buffer in buffers.items():
            transport.register(f"buffer/{peer}", buffer.tensor, is_shared=cluster.role_of(peer) == "decode")
        device = best_device()
        if device != "cpu":
            for buffer in buffers.values():
                buffer.pin()
            warm_up()
        self._port = _port_meter(cluster.node_of(engine), self._network) if setup.counts_port else None
        weights = shared_weights(
            setup.weights,
            setup.parent_pid,
            lambda: load_model(cluster.model, setup.seed, setup.checkpoint, device).weights,
        )
        model = Model(cluster.model, device=device, weights=weights)
        layout = store_layout(cluster)
        self._writer: SegmentWriter | None = None
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
        self._storage.ready(outbox.put)

    def start(self, zero_ns: int) -> None:
        """Set the run's clock and start working."""
        self.path.zero_ns = zero_ns
        if self._network is not None:
            self._network.start(self._spawn)
        if self._port is not None:
            self._spawn("port-meter", partial(self._port.run, zero_ns))
        self._storage.start(zero_ns, self._spawn)
        if self.prefill is not None:
            self.prefill.start(self._spawn)
        if self.decode is not None:
            self.decode.start(self._spawn)

    def submit(self, message: ReadBlocks | PrefillBatch | StartDecode) -> None:
        match message:
            case ReadBlocks():
                self._storage.submit(message)
            case PrefillBatch():
                assert self.prefill is not None
                self.prefill.submit(message)
            case StartDecode():
                assert self.decode is not None
                self.decode.submit(message)

    def hello(self) -> Hello:
        return Hello(self._setup.engine, self._network.endpoint() if self._network is not None else None)

    def connect(self, message: Connect) -> Connected:
        assert self._network is not None, "only engines that told their endpoint are connected"
        self._network.connect(message.peers)
        return Connected(self._setup.engine)

    def summary(self) -> Summary:
        reads = self._storage.summary()
        checked: list[CheckedBlock] = list(reads.blocks)
        for part in (self.prefill, self.decode):
            checked += part.checked if part is not None else []
        rows = reads.links + [LinkRow(**row) for row in self._meter.rows()]
        rows += self._port.rows() if self._port is not None else []
        network = self._network.counts() if self._network is not None else None
        collectives = self.prefill.collectives if self.prefill is not None else []
        return Summary(self._setup.engine, reads.reads_direct, reads.reads_note, rows, checked, network, collectives)

    def close(self) -> None:
        self._storage.close()
        if self._network is not None:
            self._network.close()

    def _spawn(self, name: str, body: Callable[[], None]) -> None:
        threading.Thread(target=partial(self._guard, body), name=name, daemon=True).start()

    def _guard(self, body: Callable[[], None]) -> None:
        try:
            with torch.inference_mode():
                body()
        except BaseException as error:  # the thread's boundary: a failure becomes a message, never a hang
            self._outbox.put(failed(self._setup.engine, error))


def _network(cluster: Cluster, engine: int, settings: NetworkSettings | None) -> NetworkTransport | None:
    """None: shared memory."""
    is_prefill = cluster.role_of(engine) == "prefill"
    peers = range(cluster.num_prefill, cluster.num_engines) if is_prefill else range(cluster.num_prefill)
    match settings:
        case None:
            return None
        case NixlSettings():
            return NixlTransport(engine, peers, settings, hears_notices=not is_prefill)
        case _:
            lanes: tuple[Lane, ...] = ("kv", "model") if cluster.model_bytes_per_token else ("kv",)
            return VerbsTransport(engine, peers, settings, lanes, hears_notices=not is_prefill)


def _port_meter(node: int, network: NetworkTransport | None) -> PortMeter | None:
    """Where KV goes over a NIC."""
    return PortMeter(network.device, network.port, node) if isinstance(network, VerbsTransport) else None


def run(setup: EngineSetup) -> None:
    """To be called where there is no other thread yet: it forks."""
    storage = StorageClient(setup)
    run_process(setup, lambda setup, outbox: Engine(setup, outbox, storage))
