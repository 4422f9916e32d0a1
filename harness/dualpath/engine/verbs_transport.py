"""The transport over RDMA: one-sided reads and writes of regions that their owners registered, between hosts or not.

Prefill engines do all the moving: they read hit KV from a decode engine's buffer and write new KV into it. Each has a
queue pair to each decode engine; both tell the coordinator their ends, which tells the other (messages.Endpoint,
messages.Connect). The last write of a call carries a notice, so that the decode engine knows without being told by
anybody else that a layer of a request is there; it counts them.

Nothing is staged: work requests name the Layer Blocks where they lie, on both sides.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from itertools import count

from torch import Tensor

from dualpath.core.errors import WorkerError
from dualpath.engine.geometry import Piece
from dualpath.engine.messages import Endpoint, RdmaCounts, RemoteRegion
from dualpath.engine.rdma import Memory, Nic, Posted, QueuePair, RdmaError, RdmaSettings, Work
from dualpath.engine.transport import Completion, copy_pieces

_LISTEN_S = 0.001  # between two looks for notices
_NOTICE_BITS = 32


class VerbsTransport:
    """One engine's. engine: its number; peers: the engines on the other side."""

    def __init__(self, engine: int, peers: Iterable[int], settings: RdmaSettings, *, hears_notices: bool) -> None:
        self._engine = engine
        peers = list(peers)
        self._nic = Nic(settings, len(peers))
        self._hears_notices = hears_notices
        self._tensors: dict[str, Tensor] = {}
        self._memory: dict[str, Memory] = {}
        self._remote: dict[str, tuple[RemoteRegion, QueuePair]] = {}
        self._pairs = {peer: self._nic.queue_pair(hears_notices=hears_notices) for peer in peers}
        self._notices = count()
        self._copied_bytes = 0  # between this engine's own regions
        self._closing = threading.Event()

    def register(self, name: str, region: Tensor, *, is_shared: bool = False) -> None:
        assert name not in self._tensors, f"region {name} registered twice"
        if region.device.type != "cpu":
            raise RdmaError(
                f"region {name} is on {region.device}: RDMA of device memory is not built; --transport shared"
            )
        self._tensors[name] = region
        self._memory[name] = self._nic.register(region.data_ptr(), region.numel(), is_shared=is_shared)

    def endpoint(self) -> Endpoint:
        """What the other side must know."""
        regions = [
            RemoteRegion(name, m.address, m.num_bytes, m.remote_key) for name, m in self._memory.items() if m.is_shared
        ]
        ends = {peer: pair.end for peer, pair in self._pairs.items()}
        return Endpoint(self._engine, self._nic.facts, ends, regions)

    def connect(self, peers: Iterable[Endpoint]) -> None:
        """Raises RdmaError where an end does not fit, WorkerError where one is missing."""
        known = {peer.engine: peer for peer in peers}
        for number, pair in self._pairs.items():
            if number not in known or self._engine not in known[number].ends:
                raise WorkerError(f"engine {self._engine}: no end of a queue pair to engine {number}")
            peer = known[number]
            pair.connect(f"engine {number}", peer.port, peer.ends[self._engine])
            for region in peer.regions:
                self._remote[region.name] = region, pair

    def start(self, spawn: Callable[[str, Callable[[], None]], None]) -> None:
        if self._hears_notices:
            spawn("listener", self._listen)

    def _listen(self) -> None:
        while not self._closing.wait(_LISTEN_S):
            self._nic.look()

    def read(self, remote: str, local: str, pieces: Iterable[Piece]) -> Completion:
        if remote in self._tensors:
            return self._copied(remote, local, ((p.remote_offset, p.local_offset, p.num_bytes) for p in pieces))
        return self._post("read", remote, local, pieces)

    def write(self, remote: str, local: str, pieces: Iterable[Piece]) -> Completion:
        if remote in self._tensors:
            return self._copied(local, remote, ((p.local_offset, p.remote_offset, p.num_bytes) for p in pieces))
        return self._post("write", remote, local, pieces)

    def _copied(self, source: str, target: str, pieces: Iterable[tuple[int, int, int]]) -> Completion:
        done = copy_pieces(self._tensors[source], self._tensors[target], pieces)
        self._copied_bytes += done.num_bytes
        return done

    def _post(self, kind: str, remote: str, local: str, pieces: Iterable[Piece]) -> _OnItsWay:
        region, pair = self._remote[remote]
        memory = self._memory[local]
        work = []
        for piece in pieces:
            assert 0 <= piece.local_offset <= memory.num_bytes - piece.num_bytes, "within the local region"
            assert 0 <= piece.remote_offset <= region.num_bytes - piece.num_bytes, "within the remote region"
            work.append(
                Work(memory.address + piece.local_offset, region.address + piece.remote_offset, piece.num_bytes)
            )
        if kind == "read":
            posted = pair.post("read", memory, region.key, work)
        else:
            posted = pair.post("write", memory, region.key, work, next(self._notices) % (1 << _NOTICE_BITS))
        return _OnItsWay(self._nic, posted, sum(each.num_bytes for each in work))

    def counts(self) -> RdmaCounts:
        nic = self._nic
        self._nic.look()
        return RdmaCounts(
            engine=self._engine,
            device=nic.facts.device,
            regions=nic.num_regions,
            registered_bytes=nic.registered_bytes,
            work_requests=nic.num_requests,
            doorbells=nic.num_doorbells,
            moved_bytes=nic.num_bytes,
            notices_sent=next(self._notices),
            notices_heard=sum(pair.num_notices for pair in self._pairs.values()),
            copied_bytes=self._copied_bytes,
        )

    def close(self) -> None:
        self._closing.set()
        self._nic.close()


class _OnItsWay:
    def __init__(self, nic: Nic, posted: Posted, num_bytes: int) -> None:
        self._nic, self._posted, self.num_bytes = nic, posted, num_bytes

    def wait(self) -> int:
        self._nic.wait(self._posted)
        return self.num_bytes
