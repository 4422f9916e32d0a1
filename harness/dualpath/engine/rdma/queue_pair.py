"""A reliable connection to one peer: connected once, then work is posted, many requests per doorbell."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from dualpath.engine.pacer import Lane
from dualpath.engine.rdma.memory import Memory
from dualpath.engine.rdma.port import Port
from dualpath.engine.rdma.settings import End, PortFacts, RdmaError, is_ipv4

SEND_DEPTH = 512  # work requests of a queue pair that are under way
DOORBELL = 64  # of them posted at once, with one completion
RECEIVE_DEPTH = 1024  # notices that may arrive between two looks
NAP_S = 50e-6
_PSN_BITS = 24
_HOP_LIMIT = 8
_RETRIES = 6  # 7 is for ever on the kernel's software device
_RNR_RETRIES, _RNR_TIMER = 7, 12
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


class Work(NamedTuple):
    """Consecutive bytes to move between local and remote memory."""

    local_address: int
    remote_address: int
    num_bytes: int


class Posted:
    """Work requests of one call."""

    __slots__ = ("error", "left")

    def __init__(self, doorbells: int) -> None:
        self.left = doorbells  # completions to come
        self.error = ""


class QueuePair:
    """Made by `Nic.queue_pair`. Thread-safe."""

    def __init__(
        self,
        port: Port,
        pd: Any,
        completions: Any,
        lane: Lane,
        notice_place: Memory | None,
        lock: threading.RLock,
        look: Callable[[], bool],
        gone: Callable[[QueuePair], None],
    ) -> None:
        """completions: the queue they go to; `look` takes them from there, under `lock`. notice_place: where the peer's
        notices are heard; None: they are not. gone: told when it is closed."""
        self._port, self._lane, self._notice_place = port, lane, notice_place
        self._lock, self._look, self._gone = lock, look, gone
        self._peer = "a peer that is not connected"
        self._remote: End | None = None
        self._under_way: deque[tuple[Posted, int, int]] = deque()  # call, work requests, bytes: by doorbell, in order
        self._num_under_way = 0
        self._raw = self._make(pd, completions)
        self.end = End(self._raw.qp_num, secrets.randbits(_PSN_BITS))
        self.num_notices = 0  # heard
        self.num_requests = 0  # work requests posted
        self.num_doorbells = 0
        self.num_bytes = 0  # completed

    def _make(self, pd: Any, completions: Any) -> Any:
        verbs, enums = self._port.verbs, self._port.enums
        cap = verbs.qp.QPCap(
            max_send_wr=SEND_DEPTH, max_recv_wr=RECEIVE_DEPTH, max_send_sge=1, max_recv_sge=1, max_inline_data=0
        )
        ops = (
            enums.IBV_QP_EX_WITH_RDMA_READ | enums.IBV_QP_EX_WITH_RDMA_WRITE | enums.IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM
        )
        init = verbs.qp.QPInitAttrEx(
            qp_type=enums.IBV_QPT_RC,
            scq=completions,
            rcq=completions,
            cap=cap,
            sq_sig_all=0,
            pd=pd,
            comp_mask=enums.IBV_QP_INIT_ATTR_PD | enums.IBV_QP_INIT_ATTR_SEND_OPS_FLAGS,
            send_ops_flags=ops,
        )
        try:
            return verbs.qp.QPEx(self._port.context, init)
        except self._port.failure as error:
            raise RdmaError(f"{self._port.facts.device}: no queue pair can be made: {error}") from None

    def connect(self, peer: str, facts: PortFacts, end: End) -> None:
        """To the peer's end. `peer`: as errors are to name it. Raises RdmaError where the ends do not fit."""
        port, verbs, enums = self._port, self._port.verbs, self._port.enums
        own, settings = port.facts, port.settings
        _check_fit(peer, facts, own)
        attributes = verbs.qp.QPAttr(port_num=settings.port)
        attributes.qp_access_flags = enums.IBV_ACCESS_REMOTE_WRITE | enums.IBV_ACCESS_REMOTE_READ
        attributes.path_mtu = min(own.mtu, facts.mtu)
        attributes.dest_qp_num, attributes.rq_psn, attributes.sq_psn = (
            end.number,
            end.first_packet,
            self.end.first_packet,
        )
        attributes.max_rd_atomic = attributes.max_dest_rd_atomic = min(own.reads, facts.reads)
        attributes.min_rnr_timer, attributes.timeout = _RNR_TIMER, settings.ack_timeout
        attributes.retry_cnt, attributes.rnr_retry = _RETRIES, _RNR_RETRIES
        marks = settings.lane(self._lane)
        route = verbs.addr.GlobalRoute(
            dgid=verbs.addr.GID(facts.gid),
            sgid_index=port.gid_index,
            hop_limit=_HOP_LIMIT,
            traffic_class=marks.traffic_class,
        )
        attributes.ah_attr = verbs.addr.AHAttr(
            gr=route,
            is_global=int(facts.is_ethernet),
            dlid=facts.lid,
            sl=marks.service_level,
            port_num=settings.port,
        )
        try:
            self._raw.to_rts(attributes)
        except port.failure as error:
            raise RdmaError(f"{peer}: cannot be connected over {own.device}: {error}; see --gid-index") from None
        if self._notice_place is not None:
            for _ in range(RECEIVE_DEPTH):
                self._expect_notice()
        self._peer, self._remote = peer, end

    def _expect_notice(self) -> None:
        """A receive for one notice. It carries no bytes, but pyverbs wants a place for them."""
        assert self._notice_place is not None
        wr = self._port.verbs.wr
        entry = wr.SGE(self._notice_place.address, 4, self._notice_place.local_key)
        self._raw.post_recv(wr.RecvWR(sg=[entry], num_sge=1))

    def post(
        self,
        kind: Literal["read", "write"],
        local: Memory,
        remote_key: int,
        work: Sequence[Work],
        notice: int | None = None,
        per_doorbell: int = DOORBELL,
    ) -> Posted:
        """Begin to move bytes; `Nic.wait` ends it. notice: a number that the peer gets when all of it is there (writes
        only). Waits while too much is under way."""
        assert self._remote is not None, "connected first"
        posted = Posted(-(-len(work) // per_doorbell))
        ends_s = time.monotonic() + self._port.settings.timeout_s
        for first in range(0, len(work), per_doorbell):
            part = work[first : first + per_doorbell]
            is_last = first + len(part) == len(work)
            while not self._try_to_post(posted, kind, local, remote_key, part, notice if is_last else None):
                if time.monotonic() > ends_s:
                    raise RdmaError(
                        f"{self._peer}: {self._num_under_way} work requests stand still; see --network-timeout"
                    )
                self._look()
                time.sleep(NAP_S)
        return posted

    def _try_to_post(
        self, posted: Posted, kind: str, local: Memory, remote_key: int, part: Sequence[Work], notice: int | None
    ) -> bool:
        """Whether there was room."""
        with self._lock:
            if self._num_under_way + len(part) > SEND_DEPTH:
                return False
            self._ring(kind, local, remote_key, part, notice)
            self._under_way.append((posted, len(part), sum(each.num_bytes for each in part)))
            self._num_under_way += len(part)
            self.num_requests += len(part)
            self.num_doorbells += 1
        return True

    def _ring(self, kind: str, local: Memory, remote_key: int, part: Sequence[Work], notice: int | None) -> None:
        raw, enums, entry = self._raw, self._port.enums, self._port.verbs.wr.SGE
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
            raw.wr_set_sge(entry(each.local_address, each.num_bytes, local.local_key))
        try:
            raw.wr_complete()
        except self._port.failure as error:
            raise RdmaError(f"{self._peer}: work cannot be posted: {error}") from None

    def completed(self, completion: Any) -> None:
        """One completion of this queue pair: of a doorbell, or of a notice. An error fails all that is under way."""
        status = completion.status
        is_receive = completion.opcode & self._port.enums.IBV_WC_RECV if not status else False
        if is_receive:
            self.num_notices += 1
            self._expect_notice()
            return
        if status == 0:
            posted, num, num_bytes = self._under_way.popleft()
            posted.left -= 1
            self._num_under_way -= num
            self.num_bytes += num_bytes
            return
        name = _STATUS[status] if status < len(_STATUS) else f"status {status}"
        remedy = f"; {_REMEDY[status]}" if status in _REMEDY else ""
        while self._under_way:
            posted, num, _ = self._under_way.popleft()
            self._num_under_way -= num
            posted.error = posted.error or f"{self._peer}: {name}{remedy}"

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            if self._raw is not None:
                self._gone(self)
                self._raw.close()
                self._raw = None


def _check_fit(peer: str, facts: PortFacts, own: PortFacts) -> None:
    if facts.is_ethernet != own.is_ethernet:
        kinds = {True: "Ethernet", False: "InfiniBand"}
        raise RdmaError(
            f"{peer}: its port {facts.device} is {kinds[facts.is_ethernet]}, ours {own.device} is "
            f"{kinds[own.is_ethernet]}; choose devices of one fabric with --rdma-device"
        )
    if facts.is_ethernet and is_ipv4(facts.gid) != is_ipv4(own.gid):
        raise RdmaError(
            f"{peer}: its GID {facts.gid} and ours {own.gid} are not of one kind (IPv4 or IPv6); see --gid-index"
        )
    if facts.gid_type and own.gid_type and facts.gid_type != own.gid_type:
        raise RdmaError(
            f"{peer}: its GID {facts.gid} is of {facts.gid_type}, ours {own.gid} of {own.gid_type}; see --gid-index"
        )
