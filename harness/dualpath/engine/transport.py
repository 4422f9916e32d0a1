"""Moving bytes between engines: one-sided access to memory that its owner registered.

The shape is RDMA's (verbs_transport.py, nixl_transport.py): regions are registered once and named, a peer connects to
them, and the one that needs the bytes reads or writes them; the owner takes no part. Transports move bytes and nothing
else: rates, lanes and counting are the data path's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from torch import Tensor

from dualpath.engine.block_copy import Region, copy_pieces, swapped
from dualpath.engine.completion import Completion
from dualpath.engine.geometry import Pieces
from dualpath.engine.network import Endpoint, NetworkCounts
from dualpath.engine.pacer import Lane


class Transport(Protocol):
    """Contract: `read` and `write` may return before the bytes have moved; source and destination must stay
    untouched until the completion. Regions are flat byte tensors [num_bytes]. Where a transport has lanes, transfers of
    one do not wait for another's. Thread-safe."""

    def register(self, name: str, region: Tensor, *, is_shared: bool = False) -> None:
        """Make local memory usable as source and destination; by peers too, where it is shared."""

    def read(self, remote: str, local: str, pieces: Pieces, lane: Lane = "kv") -> Completion:
        """Bring pieces of a remote region into a local one."""

    def write(self, remote: str, local: str, pieces: Pieces, lane: Lane = "kv") -> Completion:
        """Put pieces of a local region into a remote one."""


class NetworkTransport(Transport, Protocol):
    """A transport that its engine must connect, and close."""

    def endpoint(self) -> Endpoint:
        """What the other side must know."""

    def connect(self, peers: Iterable[Endpoint]) -> None:
        """Raises WorkerError where an end does not fit, or one is missing."""

    def start(self, spawn: Callable[[str, Callable[[], None]], None]) -> None: ...

    def counts(self) -> NetworkCounts: ...

    def close(self) -> None: ...


class OnItsWay:
    """Bytes that a network moves; `wait` is as Completion's."""

    def __init__(self, wait: Callable[[], int]) -> None:
        self.wait = wait


class SharedMemoryTransport:
    """Processes of one host: a peer's region is the same memory, mapped here too, and a transfer is a copy."""

    def __init__(self) -> None:
        self._regions: dict[str, Region] = {}

    def register(self, name: str, region: Tensor, *, is_shared: bool = False) -> None:
        assert name not in self._regions, f"region {name} registered twice"
        self._regions[name] = Region(region)

    def read(self, remote: str, local: str, pieces: Pieces, lane: Lane = "kv") -> Completion:
        source, target = self._regions[remote], self._regions[local]
        return copy_pieces(source, target, pieces)

    def write(self, remote: str, local: str, pieces: Pieces, lane: Lane = "kv") -> Completion:
        source, target = self._regions[local], self._regions[remote]
        return copy_pieces(source, target, swapped(pieces))
