"""The transport over NIXL, the library that vLLM, SGLang and Dynamo move KV with: UCX under it takes RDMA, shared
memory or TCP, as it finds them. Same shape as over verbs: prefill engines read and write, decode engines hear notices.

It has no lanes: model traffic goes with the KV.

`pip install nixl-cu12`; it is imported when a run asks for it. Which way UCX takes is UCX's to choose, and yours by its
variables (UCX_TLS, UCX_NET_DEVICES).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from dualpath.core.errors import WorkerError
from dualpath.engine.block_copy import Region, copy_pieces, swapped
from dualpath.engine.completion import Completion
from dualpath.engine.geometry import Pieces
from dualpath.engine.network import Endpoint, NetworkCounts, NixlError, NixlSettings, RemoteRegion
from dualpath.engine.pacer import Lane
from dualpath.engine.transport import OnItsWay

_LISTEN_S = 0.001  # between two looks for notices
_NAP_S = 50e-6


class NixlTransport:
    """One engine's. engine: its number; peers: the engines on the other side."""

    def __init__(self, engine: int, peers: Iterable[int], settings: NixlSettings, *, hears_notices: bool) -> None:
        self._engine, self._peers, self._settings = engine, set(peers), settings
        self._hears_notices = hears_notices
        self._agent = _agent(f"engine-{engine}")
        self._lock = threading.Lock()  # the agent is one thread's at a time
        self._regions: dict[str, Region] = {}
        self._shared: dict[str, RemoteRegion] = {}
        self._registered: list[Any] = []
        self._remote: dict[str, tuple[RemoteRegion, str]] = {}  # and its agent's name
        self._counting = threading.Lock()
        self._num_notices = 0  # sent
        self._heard = 0
        self._has_model_traffic = False
        self._requests = self._transfers = self._moved_bytes = self._copied_bytes = 0
        self._closing = threading.Event()

    def register(self, name: str, region: Tensor, *, is_shared: bool = False) -> None:
        assert name not in self._regions, f"region {name} registered twice"
        self._regions[name] = Region(region)
        try:
            self._registered.append(self._agent.register_memory(region))
        except Exception as error:  # NIXL's bindings raise types of their own
            raise NixlError(f"NIXL cannot register {region.numel():,} bytes of {name} ({error})") from None
        if is_shared:
            self._shared[name] = RemoteRegion(name, region.data_ptr(), region.numel(), 0)

    def endpoint(self) -> Endpoint:
        return Endpoint(self._engine, list(self._shared.values()), agent=self._agent.get_agent_metadata())

    def connect(self, peers: Iterable[Endpoint]) -> None:
        known = {peer.engine: peer for peer in peers}
        for number in self._peers:
            if number not in known or not known[number].agent:
                raise WorkerError(f"engine {self._engine}: engine {number} has told nothing of its NIXL agent")
            try:
                name = self._agent.add_remote_agent(known[number].agent)
            except Exception as error:  # NIXL's bindings raise types of their own
                raise NixlError(f"engine {self._engine} cannot reach engine {number} over NIXL: {error}") from None
            for region in known[number].regions:
                self._remote[region.name] = region, name.decode() if isinstance(name, bytes) else name

    def start(self, spawn: Callable[[str, Callable[[], None]], None]) -> None:
        if self._hears_notices:
            spawn("listener", self._listen)

    def _listen(self) -> None:
        while not self._closing.wait(_LISTEN_S):
            self._hear()

    def _hear(self) -> None:
        with self._lock:
            self._heard += sum(len(notices) for notices in self._agent.get_new_notifs().values())

    def read(self, remote: str, local: str, pieces: Pieces, lane: Lane = "kv") -> Completion:
        if remote in self._regions:
            return self._copied(remote, local, pieces)
        return self._post("READ", remote, local, pieces, b"")

    def write(self, remote: str, local: str, pieces: Pieces, lane: Lane = "kv") -> Completion:
        if remote in self._regions:
            return self._copied(local, remote, swapped(pieces))
        notice = b""
        with self._counting:
            if lane == "kv":
                self._num_notices += 1
                notice = str(self._num_notices).encode()
            else:
                self._has_model_traffic = True
        return self._post("WRITE", remote, local, pieces, notice)

    def _copied(self, source: str, target: str, pieces: Pieces) -> Completion:
        done = copy_pieces(self._regions[source], self._regions[target], pieces)
        with self._counting:
            self._copied_bytes += done.num_bytes
        return done

    def _post(
        self, kind: Literal["READ", "WRITE"], remote: str, local: str, pieces: Pieces, notice: bytes
    ) -> Completion:
        region, agent = self._remote[remote]
        tensor = self._regions[local].memory
        device = max(tensor.get_device(), 0)
        for offsets, num, side in ((pieces[:, 0], tensor.numel(), "local"), (pieces[:, 1], region.num_bytes, "remote")):
            assert offsets.min() >= 0, f"within the {side} region"
            assert (offsets + pieces[:, 2]).max() <= num, f"within the {side} region"
        sizes = pieces[:, 2]
        ours = np.stack([tensor.data_ptr() + pieces[:, 0], sizes, np.full_like(sizes, device)], axis=1)
        theirs = np.stack([region.address + pieces[:, 1], sizes, np.zeros_like(sizes)], axis=1)
        num_bytes = int(sizes.sum())
        kind_of_memory = "VRAM" if tensor.is_cuda else "DRAM"
        with self._lock:
            try:
                transfer = self._agent.initialize_xfer(
                    kind,
                    self._agent.get_xfer_descs(ours, kind_of_memory),
                    self._agent.get_xfer_descs(theirs, "DRAM"),
                    agent,
                    notice,
                )
                self._agent.transfer(transfer)
            except Exception as error:  # NIXL's bindings raise types of their own
                raise NixlError(f"{agent}: {kind.lower()} of {num_bytes:,} bytes cannot be posted: {error}") from None
            self._requests += len(ours)
            self._transfers += 1
        return OnItsWay(lambda: self._wait(transfer, agent, num_bytes))

    def _wait(self, transfer: Any, agent: str, num_bytes: int) -> int:
        ends_s = time.monotonic() + self._settings.timeout_s
        while True:
            with self._lock:
                try:
                    state = self._agent.check_xfer_state(transfer)
                except Exception as error:  # NIXL's bindings raise types of their own
                    raise NixlError(f"{agent}: a transfer failed: {error}; the peer is gone?") from None
                if state == "DONE":
                    self._agent.release_xfer_handle(transfer)
                    self._moved_bytes += num_bytes
                    return num_bytes
            if state == "ERR":
                raise NixlError(f"{agent}: a transfer failed; the peer is gone, or its memory no longer registered")
            if time.monotonic() > ends_s:
                raise NixlError(
                    f"{agent}: a transfer is not done within {self._settings.timeout_s:g} s; the peer or the network "
                    "stands still; see --network-timeout"
                )
            time.sleep(_NAP_S)

    def counts(self) -> NetworkCounts:
        self._hear()
        return NetworkCounts(
            engine=self._engine,
            device=f"UCX (UCX_TLS={os.environ.get('UCX_TLS', 'its own choice')})",
            regions=len(self._registered),
            registered_bytes=sum(region.memory.numel() for region in self._regions.values()),
            work_requests=self._requests,
            doorbells=self._transfers,
            moved_bytes=self._moved_bytes,
            notices_sent=self._num_notices,
            notices_heard=self._heard,
            copied_bytes=self._copied_bytes,
            staged_bytes=0,
            note="NIXL has NO LANES: model traffic goes with the KV" if self._has_model_traffic else "",
        )

    def close(self) -> None:
        """Registrations go with the process: NIXL has no order in which they may be undone while peers use them."""
        self._closing.set()


def _agent(name: str) -> Any:
    """Raises NixlError where the library is not there, or cannot start."""
    if not any(Path("/sys/class/infiniband").glob("*")):
        os.environ.setdefault("UCX_MODULES", "^ib")  # or the process may crash at its end, where there is no device
    try:
        api = import_module("nixl_cu12._api")
    except ImportError:
        try:
            api = import_module("nixl._api")
        except ImportError as error:
            raise NixlError(
                f"NIXL cannot be imported ({error}); install it: pip install nixl-cu12; or run with --transport shared"
            ) from None
    try:
        return api.nixl_agent(name, api.nixl_agent_config(backends=["UCX"]))
    except Exception as error:  # NIXL's bindings raise types of their own
        raise NixlError(f"NIXL has no UCX backend here: {error}; see UCX_TLS and UCX_NET_DEVICES") from None
