"""What engines tell each other before KV goes over a network, and what they count. On the wire: messages.py."""

from __future__ import annotations

import msgspec

from dualpath.core.errors import WorkerError
from dualpath.engine.pacer import Lane
from dualpath.engine.rdma.settings import End, PortFacts, RdmaSettings


class NixlError(WorkerError):
    """NIXL that cannot be set up, or failed: says why, and what to do."""


class NixlSettings(msgspec.Struct, frozen=True, tag="nixl"):
    """KV through NIXL's UCX backend, over what UCX finds: RDMA, shared memory, TCP."""

    timeout_s: float = 30.0  # the longest that anything is waited for


NetworkSettings = RdmaSettings | NixlSettings


def network_name(settings: NetworkSettings | None) -> str | None:
    match settings:
        case None:
            return None
        case NixlSettings():
            return "NIXL over UCX"
        case _:
            return f"RDMA verbs, device {settings.device or 'chosen by port'}"


class RemoteRegion(msgspec.Struct, frozen=True, array_like=True):
    """Memory that its owner lets its peers read and write."""

    name: str
    address: int
    num_bytes: int
    key: int


class Endpoint(msgspec.Struct, frozen=True):
    """An engine on the network, and its regions."""

    engine: int
    regions: list[RemoteRegion]
    port: PortFacts | None = None  # verbs: its port,
    ends: dict[Lane, dict[int, End]] = {}  # and its ends of queue pairs, by peer
    agent: bytes = b""  # NIXL: what another agent must know of it


class NetworkCounts(msgspec.Struct, frozen=True):
    """What an engine's transport did."""

    engine: int
    device: str
    regions: int
    registered_bytes: int
    work_requests: int
    doorbells: int  # of verbs; of NIXL: transfers
    moved_bytes: int
    notices_sent: int  # one per layer of a request's share of a batch: "it is there"
    notices_heard: int
    copied_bytes: int  # by the processor, between the engine's own regions
    staged_bytes: int  # copied once more because the network cannot reach device memory; else 0
    note: str = ""  # why they were
