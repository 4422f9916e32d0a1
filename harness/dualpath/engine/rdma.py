"""RDMA verbs: an open NIC, registered memory, connected queue pairs, completions. The one module that knows pyverbs.

    Nic  ->  register(address, bytes) -> Memory (local and remote key)
         ->  queue_pair()             -> QueuePair: connect(the peer's end), post(work) -> Posted, wait(posted)

Many work requests go out per doorbell, and only the last of them asks for a completion: queue pairs are reliable and in
order, so its completion is everybody's. Completions are polled (pyverbs holds the interpreter's lock where it blocks on
an event channel); who waits sleeps between looks. Every wait has an end.

pyverbs comes with Debian's python3-pyverbs (44), or from PyPI (59, which needs rdma-core 59): only their enums' homes
differ. It is imported when a NIC is opened, not before.
"""

from __future__ import annotations

import resource
import secrets
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, NamedTuple

import msgspec

from dualpath.core.errors import WorkerError

SEND_DEPTH = 512  # work requests of a queue pair that are under way
DOORBELL = 64  # of them posted at once, with one completion
RECEIVE_DEPTH = 1024  # notices that may arrive between two looks
_NAP_S = 50e-6
_SPIN_S = 20e-6
_PSN_BITS = 24
_HOP_LIMIT = 8
_READS = 16
# Local ACK timeout 4.096 us * 2^18 = 1 s: a low class that is starved must not be taken for a dead one.
_ACK_TIMEOUT, _RETRIES, _RNR_RETRIES, _RNR_TIMER = 18, 7, 7, 12
_STATUS = (  # enum ibv_wc_status: the kernel's interface, so it does not change
    "success",
    "local length error",
    "local queue pair operation error",
    "local end-to-end context error",
    "local protection error",
    "flushed: the queue pair had failed before",
    "memory window error",
    "bad response",
    "local access error",
    "remote invalid request",
    "remote access error",
    "remote operation error",
    "retries exceeded: the peer does not answer",
    "receiver not ready: the peer posts no receives",
)
_REMEDY = {
    10: "the peer's memory is not registered there, or no longer; both ends must run the same version",
    12: "the peer is gone, its port is down, or packets are lost; see `dualpath doctor` on both hosts",
    13: "the peer is overloaded or gone",
}


class RdmaError(WorkerError):
    """RDMA that cannot be set up, or failed: says which device, why, and what to do."""


class RdmaSettings(msgspec.Struct, frozen=True):
    """Which NIC, and in which class KV travels (paper A.1: KV on a low-priority lane)."""

    device: str | None = None  # None: the first one with an active port
    port: int = 1
    gid_index: int | None = None  # None: the first GID with an IPv4 address, whichever RoCE it is of; else the first
    traffic_class: int = 0  # RoCE: DSCP << 2
    service_level: int = 0  # InfiniBand
    timeout_s: float = 30.0  # the longest that anything is waited for


class PortFacts(msgspec.Struct, frozen=True):
    """What a peer must know of a port."""

    gid: str
    lid: int
    is_ethernet: bool
    mtu: int  # enum ibv_mtu: 1 is 256 bytes, 5 is 4096
    reads: int  # that may be under way at once
    device: str


class End(msgspec.Struct, frozen=True):
    """One end of a queue pair."""

    number: int
    first_packet: int


class Work(NamedTuple):
    """Consecutive bytes to move between local and remote memory."""

    local_address: int
    remote_address: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Memory:
    """A registered region. `handle` must live as long as it is used."""

    address: int
    num_bytes: int
    local_key: int
    remote_key: int
    is_shared: bool  # with peers
    handle: Any


class Posted:
    """Work requests of one call."""

    __slots__ = ("error", "left")

    def __init__(self, doorbells: int) -> None:
        self.left = doorbells  # completions to come
        self.error = ""


def load_pyverbs() -> tuple[Any, Any]:
    """(the package with its parts loaded, its enums). Raises RdmaError where it is not installed."""
    try:
        for part in ("addr", "cq", "device", "mr", "pd", "pyverbs_error", "qp", "wr"):
            import_module(f"pyverbs.{part}")
        try:
            enums = import_module("pyverbs.libibverbs_enums")
        except ImportError:
            enums = import_module("pyverbs.enums")
    except ImportError as error:
        raise RdmaError(
            f"pyverbs cannot be imported ({error}); install it: apt install python3-pyverbs rdma-core "
            "ibverbs-providers, with the distribution's own Python; or run with --transport shared"
        ) from None
    return import_module("pyverbs"), enums


class Nic:
    """An open RDMA device. Thread-safe. Close it last; queue pairs and memory may go in any order before."""

    def __init__(self, settings: RdmaSettings, num_pairs: int = 1) -> None:
        """num_pairs: queue pairs that will be made. Raises RdmaError."""
        self.settings = settings
        self._verbs, self._enums = load_pyverbs()
        self.failure: type[Exception] = self._verbs.pyverbs_error.PyverbsError  # of every call
        self._context = self._open()
        self.facts, self.gid_index = self._port()
        self._lock = threading.RLock()
        self._pd = self._verbs.pd.PD(self._context)
        depth, most = num_pairs * (SEND_DEPTH + RECEIVE_DEPTH), self._context.query_device().max_cqe
        if depth > most:
            raise RdmaError(
                f"{self.facts.device}: {num_pairs} queue pairs need {depth:,} completions in a queue, the device has "
                f"{most:,}; use fewer engines"
            )
        self._cq = self._verbs.cq.CQ(self._context, depth, None, None, 0)
        self._pairs: dict[int, QueuePair] = {}
        self._memory: list[Memory] = []
        self._sink: Memory | None = None
        self.num_requests = 0  # work requests posted
        self.num_doorbells = 0
        self.num_bytes = 0  # completed

    def _open(self) -> Any:
        wanted = self.settings.device
        try:
            names = [device.name.decode() for device in self._verbs.device.get_device_list()]
        except self.failure:  # "Failed to get devices list": the kernel knows no RDMA
            names = []
        if not names:
            raise RdmaError(
                "no RDMA device; load the NIC's driver, or make a software one: modprobe rdma_rxe; rdma link add rxe0 "
                "type rxe netdev NETDEV; or run with --transport shared"
            )
        if wanted is not None and wanted not in names:
            raise RdmaError(f"no RDMA device {wanted!r}; there are {', '.join(names)}; choose one with --rdma-device")
        failed: list[str] = []
        for name in [wanted] if wanted else names:
            try:
                context = self._verbs.device.Context(name=name)
                state = context.query_port(self.settings.port).state
            except self.failure as error:
                failed.append(f"{name}: {error}")
                continue
            if state == self._enums.IBV_PORT_ACTIVE:
                return context
            failed.append(f"{name}: port {self.settings.port} is not active")
            context.close()
        raise RdmaError(
            f"no RDMA device that can be used: {'; '.join(failed)}; bring the link up, or choose another device with "
            "--rdma-device"
        )

    def _port(self) -> tuple[PortFacts, int]:
        port = self._context.query_port(self.settings.port)
        is_ethernet = port.link_layer == self._enums.IBV_LINK_LAYER_ETHERNET
        gids = [self._gid(index) for index in range(port.gid_tbl_len)]
        index = self.settings.gid_index
        if index is not None and not (index < len(gids) and gids[index]):
            used = ", ".join(f"{number}: {gid}" for number, gid in enumerate(gids) if gid)
            raise RdmaError(f"{self._context.name}: no GID at index {index}; there are {used}; see --gid-index")
        if index is None:
            mapped = [number for number, gid in enumerate(gids) if _is_ipv4(gid)]
            used_gids = [number for number, gid in enumerate(gids) if gid]
            index = (mapped or used_gids or [0])[0]
        reads = min(_READS, self._context.query_device().max_qp_rd_atom)
        name = _text(self._context.name)
        facts = PortFacts(gids[index] if gids else "", port.lid, is_ethernet, port.active_mtu, reads, name)
        return facts, index

    def _gid(self, index: int) -> str:
        """Empty where the table has none."""
        try:
            gid = str(self._context.query_gid(self.settings.port, index)).strip().lower()
        except self.failure:
            return ""
        return "" if not gid.strip("0:") else gid

    def register(self, address: int, num_bytes: int, *, is_shared: bool) -> Memory:
        """Pin memory; where it is shared, peers may read and write it. Raises RdmaError, mostly for a limit."""
        access = self._enums.IBV_ACCESS_LOCAL_WRITE
        if is_shared:
            access |= self._enums.IBV_ACCESS_REMOTE_WRITE | self._enums.IBV_ACCESS_REMOTE_READ
        try:
            handle = self._verbs.mr.MR(self._pd, num_bytes, access, address=address)
        except self.failure as error:
            soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
            limit = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft:,} bytes"
            raise RdmaError(
                f"{self.facts.device}: {num_bytes:,} bytes cannot be registered ({error}); this process may lock "
                f"{limit}: raise it with `ulimit -l unlimited`, or lower the buffers of the cluster file"
            ) from None
        memory = Memory(address, num_bytes, handle.lkey, handle.rkey, is_shared, handle)
        self._memory.append(memory)
        return memory

    @property
    def registered_bytes(self) -> int:
        return sum(memory.num_bytes for memory in self._memory)

    @property
    def num_regions(self) -> int:
        return len(self._memory)

    def queue_pair(self, *, hears_notices: bool) -> QueuePair:
        """A reliable connection that is not connected yet. hears_notices: the peer will tell when its writes are
        there, and this end counts that."""
        enums = self._enums
        cap = self._verbs.qp.QPCap(
            max_send_wr=SEND_DEPTH, max_recv_wr=RECEIVE_DEPTH, max_send_sge=1, max_recv_sge=1, max_inline_data=0
        )
        ops = (
            enums.IBV_QP_EX_WITH_RDMA_READ | enums.IBV_QP_EX_WITH_RDMA_WRITE | enums.IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM
        )
        init = self._verbs.qp.QPInitAttrEx(
            qp_type=enums.IBV_QPT_RC,
            scq=self._cq,
            rcq=self._cq,
            cap=cap,
            sq_sig_all=0,
            pd=self._pd,
            comp_mask=enums.IBV_QP_INIT_ATTR_PD | enums.IBV_QP_INIT_ATTR_SEND_OPS_FLAGS,
            send_ops_flags=ops,
        )
        try:
            raw = self._verbs.qp.QPEx(self._context, init)
        except self.failure as error:
            raise RdmaError(f"{self.facts.device}: no queue pair can be made: {error}") from None
        if hears_notices and self._sink is None:
            handle = self._verbs.mr.MR(self._pd, 4096, enums.IBV_ACCESS_LOCAL_WRITE)
            self._sink = Memory(handle.buf, 4096, handle.lkey, handle.rkey, False, handle)
        with self._lock:
            pair = QueuePair(self, raw, hears_notices=hears_notices)
            self._pairs[pair.end.number] = pair
        return pair

    def expect_notice(self, raw: Any) -> None:
        """A receive for one notice. It carries no bytes, but pyverbs wants a place for them."""
        assert self._sink is not None
        entry = self._verbs.wr.SGE(self._sink.address, 4, self._sink.local_key)
        raw.post_recv(self._verbs.wr.RecvWR(sg=[entry], num_sge=1))

    def wait(self, posted: Posted) -> None:
        """Until all of it is there. Raises RdmaError where it failed, or takes too long."""
        spin_until_s = time.monotonic() + _SPIN_S
        ends_s = spin_until_s + self.settings.timeout_s
        while True:
            self.look()
            if posted.error:
                raise RdmaError(posted.error)
            if not posted.left:
                return
            now_s = time.monotonic()
            if now_s > ends_s:
                raise RdmaError(
                    f"{self.facts.device}: no completion within {self.settings.timeout_s:g} s; the peer or the network "
                    "stands still; see --rdma-timeout"
                )
            if now_s > spin_until_s:
                time.sleep(_NAP_S)

    def look(self) -> None:
        """Take completions that are there."""
        with self._lock:
            num, completions = self._cq.poll(num_entries=64)
            for completion in completions[:num]:
                if completion.qp_num in self._pairs:  # else: what was under way when it was closed
                    self._pairs[completion.qp_num].completed(completion)

    def close(self) -> None:
        """Idempotent. Queue pairs first, then memory, then what they were made from."""
        with self._lock:
            for pair in list(self._pairs.values()):
                pair.close()
            for memory in self._memory:
                memory.handle.close()
            self._memory.clear()
            if self._sink is not None:
                self._sink.handle.close()
                self._sink = None
            for part in (self._cq, self._pd, self._context):
                part.close()


class QueuePair:
    """A reliable connection to one peer. Made by `Nic.queue_pair`."""

    def __init__(self, nic: Nic, raw: Any, *, hears_notices: bool) -> None:
        self._nic = nic
        self._hears_notices = hears_notices
        self._raw = raw
        self._peer = "a peer that is not connected"
        self._remote: End | None = None
        self._under_way: deque[tuple[Posted, int, int]] = deque()  # call, work requests, bytes: by doorbell, in order
        self._num_under_way = 0
        self.num_notices = 0  # heard
        self.end = End(raw.qp_num, secrets.randbits(_PSN_BITS))

    def connect(self, peer: str, facts: PortFacts, end: End) -> None:
        """To the peer's end. `peer`: as errors are to name it. Raises RdmaError where the ends do not fit."""
        nic, enums = self._nic, self._nic._enums
        own = nic.facts
        if facts.is_ethernet != own.is_ethernet:
            kinds = {True: "Ethernet", False: "InfiniBand"}
            raise RdmaError(
                f"{peer}: its port {facts.device} is {kinds[facts.is_ethernet]}, ours {own.device} is "
                f"{kinds[own.is_ethernet]}; choose devices of one fabric with --rdma-device"
            )
        if facts.is_ethernet and _is_ipv4(facts.gid) != _is_ipv4(own.gid):
            raise RdmaError(
                f"{peer}: its GID {facts.gid} and ours {own.gid} are not of one kind (IPv4 or IPv6); see --gid-index"
            )
        attributes = self._verbs.qp.QPAttr(port_num=nic.settings.port)
        attributes.qp_access_flags = enums.IBV_ACCESS_REMOTE_WRITE | enums.IBV_ACCESS_REMOTE_READ
        attributes.path_mtu = min(own.mtu, facts.mtu)
        attributes.dest_qp_num, attributes.rq_psn, attributes.sq_psn = (
            end.number,
            end.first_packet,
            self.end.first_packet,
        )
        attributes.max_rd_atomic = attributes.max_dest_rd_atomic = min(own.reads, facts.reads)
        attributes.min_rnr_timer, attributes.timeout = _RNR_TIMER, _ACK_TIMEOUT
        attributes.retry_cnt, attributes.rnr_retry = _RETRIES, _RNR_RETRIES
        route = self._verbs.addr.GlobalRoute(
            dgid=self._verbs.addr.GID(facts.gid),
            sgid_index=nic.gid_index,
            hop_limit=_HOP_LIMIT,
            traffic_class=nic.settings.traffic_class,
        )
        attributes.ah_attr = self._verbs.addr.AHAttr(
            gr=route,
            is_global=int(facts.is_ethernet),
            dlid=facts.lid,
            sl=nic.settings.service_level,
            port_num=nic.settings.port,
        )
        try:
            self._raw.to_rts(attributes)
        except self._nic.failure as error:
            raise RdmaError(f"{peer}: cannot be connected over {own.device}: {error}; see --gid-index") from None
        if self._hears_notices:
            for _ in range(RECEIVE_DEPTH):
                nic.expect_notice(self._raw)
        self._peer, self._remote = peer, end

    @property
    def _verbs(self) -> Any:
        return self._nic._verbs

    def post(
        self,
        kind: Literal["read", "write"],
        local: Memory,
        remote_key: int,
        work: Sequence[Work],
        notice: int | None = None,
    ) -> Posted:
        """Begin to move bytes; `wait` on the Nic ends it. notice: a number that the peer gets when all of it is there
        (writes only). Waits while too much is under way."""
        assert self._remote is not None, "connected first"
        posted = Posted(-(-len(work) // DOORBELL))
        ends_s = time.monotonic() + self._nic.settings.timeout_s
        for first in range(0, len(work), DOORBELL):
            part = work[first : first + DOORBELL]
            is_last = first + len(part) == len(work)
            while not self._try_to_post(posted, kind, local, remote_key, part, notice if is_last else None):
                if time.monotonic() > ends_s:
                    raise RdmaError(
                        f"{self._peer}: {self._num_under_way} work requests stand still; see --rdma-timeout"
                    )
                self._nic.look()
                time.sleep(_NAP_S)
        return posted

    def _try_to_post(
        self, posted: Posted, kind: str, local: Memory, remote_key: int, part: Sequence[Work], notice: int | None
    ) -> bool:
        """Whether there was room."""
        with self._nic._lock:
            if self._num_under_way + len(part) > SEND_DEPTH:
                return False
            self._ring(kind, local, remote_key, part, notice)
            self._under_way.append((posted, len(part), sum(each.num_bytes for each in part)))
            self._num_under_way += len(part)
            self._nic.num_requests += len(part)
            self._nic.num_doorbells += 1
        return True

    def _ring(self, kind: str, local: Memory, remote_key: int, part: Sequence[Work], notice: int | None) -> None:
        raw, enums = self._raw, self._nic._enums
        raw.wr_start()
        for place, each in enumerate(part):
            is_end = place + 1 == len(part)
            raw.wr_id = 0
            raw.wr_flags = enums.IBV_SEND_SIGNALED if is_end else 0
            if kind == "read":
                raw.wr_rdma_read(remote_key, each.remote_address)
            elif is_end and notice is not None:
                raw.wr_rdma_write_imm(remote_key, each.remote_address, notice)
            else:
                raw.wr_rdma_write(remote_key, each.remote_address)
            raw.wr_set_sge(self._verbs.wr.SGE(each.local_address, each.num_bytes, local.local_key))
        try:
            raw.wr_complete()
        except self._nic.failure as error:
            raise RdmaError(f"{self._peer}: work cannot be posted: {error}") from None

    def completed(self, completion: Any) -> None:
        """One completion of this queue pair: of a doorbell, or of a notice. An error fails all that is under way."""
        status = completion.status
        is_receive = completion.opcode & self._nic._enums.IBV_WC_RECV if not status else False
        if is_receive:
            self.num_notices += 1
            self._nic.expect_notice(self._raw)
            return
        if status == 0:
            posted, num, num_bytes = self._under_way.popleft()
            posted.left -= 1
            self._num_under_way -= num
            self._nic.num_bytes += num_bytes
            return
        name = _STATUS[status] if status < len(_STATUS) else f"status {status}"
        remedy = f"; {_REMEDY[status]}" if status in _REMEDY else ""
        while self._under_way:
            posted, num, _ = self._under_way.popleft()
            self._num_under_way -= num
            posted.error = posted.error or f"{self._peer}: {name}{remedy}"

    def close(self) -> None:
        """Idempotent."""
        if self._nic._pairs.pop(self.end.number, None) is not None:
            self._raw.close()


def _is_ipv4(gid: str) -> bool:
    return gid.startswith(("0000:0000:0000:0000:0000:ffff:", "::ffff:"))


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
