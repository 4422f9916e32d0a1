"""What is chosen of a NIC, what its peers must know of it, and what goes wrong. Knows no pyverbs."""

from __future__ import annotations

import msgspec

from dualpath.core.errors import WorkerError
from dualpath.engine.pacer import Lane


class RdmaError(WorkerError):
    """RDMA that cannot be set up, or failed: says which device, why, and what to do."""


class LaneClass(msgspec.Struct, frozen=True):
    """How a lane's packets are marked, for switches and NICs to tell them apart."""

    traffic_class: int = 0  # RoCE: DSCP << 2
    service_level: int = 0  # InfiniBand


class RdmaSettings(msgspec.Struct, frozen=True, tag="verbs"):
    """Which NIC, and in which class each lane travels (paper A.1: KV on a low-priority lane)."""

    device: str | None = None  # None: the first one with an active port
    port: int = 1
    gid_index: int | None = None  # None: the first GID with an IPv4 address, of RoCE v2 where known; else the first
    kv: LaneClass = LaneClass()
    model: LaneClass = LaneClass()
    timeout_s: float = 30.0  # the longest that anything is waited for
    # An answer is missed after 4.096 us * 2^18 = 1 s: a low class that is starved must not be taken for a dead one.
    # On a network that loses packets less is better: each loss costs one such time.
    ack_timeout: int = 18
    stages_device_memory: bool = False  # through pinned host memory, although dma-buf might do

    def lane(self, lane: Lane) -> LaneClass:
        return self.kv if lane == "kv" else self.model


class PortFacts(msgspec.Struct, frozen=True):
    """What a peer must know of a port."""

    gid: str
    gid_type: str  # "RoCE v2", "IB/RoCE v1"; empty where the kernel does not say
    lid: int
    is_ethernet: bool
    mtu: int  # enum ibv_mtu: 1 is 256 bytes, 5 is 4096
    reads: int  # that may be under way at once
    device: str


class End(msgspec.Struct, frozen=True):
    """One end of a queue pair."""

    number: int
    first_packet: int


def is_ipv4(gid: str) -> bool:
    return gid.startswith(("0000:0000:0000:0000:0000:ffff:", "::ffff:"))
