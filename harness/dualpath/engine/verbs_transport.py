"""The transport over RDMA: one-sided reads and writes of regions that their owners registered, between hosts or not.

Prefill engines do all the moving: they read hit KV from a decode engine's buffer and write new KV into it. Each has a
queue pair per lane to each decode engine; both tell the coordinator their ends, which tells the other
(messages.Connect). The last KV write of a call carries a notice: that a layer of a request is there. The decode engine
counts them; what it does next, the coordinator tells it.

Nothing is staged: work requests name the Layer Blocks where they lie, on both sides. Device memory is registered
through a dma-buf (untested on hardware); where that cannot be, it is staged through pinned host memory, and said so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

from dualpath.core.errors import WorkerError
from dualpath.engine.block_copy import Region, copy_pieces, swapped
from dualpath.engine.completion import Completion
from dualpath.engine.device_memory import DmaBuf, Mirror, NoDmaBuf
from dualpath.engine.geometry import Pieces
from dualpath.engine.network import Endpoint, NetworkCounts, RemoteRegion
from dualpath.engine.pacer import Lane
from dualpath.engine.rdma.memory import Memory
from dualpath.engine.rdma.nic import Nic
from dualpath.engine.rdma.queue_pair import QueuePair, Work
from dualpath.engine.rdma.settings import End, RdmaError, RdmaSettings
from dualpath.engine.transport import OnItsWay

_LISTEN_S = 0.001  # between two looks for notices
_NOTICE_BITS = 32


class VerbsTransport:
    """One engine's. engine: its number; peers: the engines on the other side."""

    def __init__(
        self, engine: int, peers: Iterable[int], settings: RdmaSettings, lanes: Sequence[Lane], *, hears_notices: bool
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._peers = list(peers)
        self._nic = Nic(settings, len(self._peers) * len(lanes))
        self._hears_notices = hears_notices
        self._regions: dict[str, Region] = {}
        self._memory: dict[str, Memory] = {}
        self._mirrors: dict[str, Mirror] = {}  # of regions that the NIC does not reach
        self._notes: list[str] = []
        self._remote: dict[str, tuple[RemoteRegion, int]] = {}  # and the engine it is of
        self._pairs: dict[tuple[Lane, int], QueuePair] = {
            (lane, peer): self._nic.queue_pair(lane, hears_notices=hears_notices and lane == "kv")
            for lane in lanes
            for peer in self._peers
        }
        self._counting = threading.Lock()  # of the two numbers below: loader, computer and sender add to them
        self._num_notices = 0  # sent
        self._copied_bytes = 0  # between this engine's own regions
        self._closing = threading.Event()

    def register(self, name: str, region: Tensor, *, is_shared: bool = False) -> None:
        assert name not in self._regions, f"region {name} registered twice"
        self._regions[name] = Region(region)
        is_device = region.device.type != "cpu"
        if is_shared or not (is_device or self._settings.stages_device_memory):
            assert not is_device, "peers reach host memory only"
            self._memory[name] = self._nic.register(region.data_ptr(), region.numel(), is_shared=is_shared)
        else:
            self._memory[name] = self._device_memory(name, region)

    def _device_memory(self, name: str, region: Tensor) -> Memory:
        why = "asked for"
        if not self._settings.stages_device_memory:
            try:
                exported = DmaBuf(region)
                try:
                    return self._nic.register_dma_buf(exported.fd, exported.offset, region.numel())
                finally:
                    exported.close()
            except (NoDmaBuf, RdmaError) as error:
                why = str(error)
        mirror = self._mirrors[name] = Mirror(region)
        self._notes.append(f"{name} is STAGED through pinned host memory: {why}")
        return self._nic.register(mirror.pinned.data_ptr(), region.numel(), is_shared=False)

    @property
    def device(self) -> str:
        return self._nic.facts.device

    @property
    def port(self) -> int:
        return self._settings.port

    def endpoint(self) -> Endpoint:
        regions = [
            RemoteRegion(name, m.address, m.num_bytes, m.remote_key) for name, m in self._memory.items() if m.is_shared
        ]
        ends: dict[Lane, dict[int, End]] = {}
        for (lane, peer), pair in self._pairs.items():
            ends.setdefault(lane, {})[peer] = pair.end
        return Endpoint(self._engine, regions, self._nic.facts, ends)

    def connect(self, peers: Iterable[Endpoint]) -> None:
        known = {peer.engine: peer for peer in peers}
        for (lane, number), pair in self._pairs.items():
            peer = known.get(number)
            if peer is None or peer.port is None or self._engine not in peer.ends.get(lane, {}):
                raise WorkerError(f"engine {self._engine}: no end of a queue pair to engine {number}, lane {lane}")
            pair.connect(f"engine {number}", peer.port, peer.ends[lane][self._engine])
            for region in peer.regions:
                self._remote[region.name] = region, number

    def start(self, spawn: Callable[[str, Callable[[], None]], None]) -> None:
        if self._hears_notices:
            spawn("listener", self._listen)

    def _listen(self) -> None:
        while not self._closing.wait(_LISTEN_S):
            self._nic.look()

    def read(self, remote: str, local: str, pieces: Pieces, lane: Lane = "kv") -> Completion:
        if remote in self._regions:
            return self._copied(remote, local, pieces)
        region, peer = self._remote[remote]
        posted = self._pairs[lane, peer].post(
            "read", self._memory[local], region.key, self._work(remote, local, pieces)
        )

        def wait() -> int:
            self._nic.wait(posted)
            if (mirror := self._mirrors.get(local)) is not None:
                mirror.empty(pieces)
            return int(pieces[:, 2].sum())

        return OnItsWay(wait)

    def write(self, remote: str, local: str, pieces: Pieces, lane: Lane = "kv") -> Completion:
        if remote in self._regions:
            return self._copied(local, remote, swapped(pieces))
        region, peer = self._remote[remote]
        if (mirror := self._mirrors.get(local)) is not None:
            mirror.fill(pieces)
        notice = self._next_notice() if lane == "kv" else None
        work = self._work(remote, local, pieces)
        posted = self._pairs[lane, peer].post("write", self._memory[local], region.key, work, notice)

        def wait() -> int:
            self._nic.wait(posted)
            return int(pieces[:, 2].sum())

        return OnItsWay(wait)

    def _next_notice(self) -> int:
        with self._counting:
            self._num_notices += 1
            return self._num_notices % (1 << _NOTICE_BITS)

    def _copied(self, source: str, target: str, pieces: Pieces) -> Completion:
        done = copy_pieces(self._regions[source], self._regions[target], pieces)
        with self._counting:
            self._copied_bytes += done.num_bytes
        return done

    def _work(self, remote: str, local: str, pieces: Pieces) -> list[Work]:
        region, _ = self._remote[remote]
        memory = self._memory[local]
        work = []
        for local_offset, remote_offset, num_bytes in pieces.tolist():
            assert 0 <= local_offset <= memory.num_bytes - num_bytes, "within the local region"
            assert 0 <= remote_offset <= region.num_bytes - num_bytes, "within the remote region"
            work.append(Work(memory.address + local_offset, region.address + remote_offset, num_bytes))
        return work

    def counts(self) -> NetworkCounts:
        nic, pairs = self._nic, self._pairs.values()
        while nic.look():
            pass
        notes = list(self._notes)
        if len(pairs) > len(self._peers) and self._settings.kv == self._settings.model:
            notes.append("KV and model traffic are MARKED ALIKE: see --traffic-class and --model-traffic-class")
        return NetworkCounts(
            engine=self._engine,
            device=self.device,
            regions=nic.num_regions,
            registered_bytes=nic.registered_bytes,
            work_requests=sum(pair.num_requests for pair in pairs),
            doorbells=sum(pair.num_doorbells for pair in pairs),
            moved_bytes=sum(pair.num_bytes for pair in pairs),
            notices_sent=self._num_notices,
            notices_heard=sum(pair.num_notices for pair in pairs),
            copied_bytes=self._copied_bytes,
            staged_bytes=sum(mirror.staged_bytes for mirror in self._mirrors.values()),
            note="; ".join(notes),
        )

    def close(self) -> None:
        self._closing.set()
        self._nic.close()
