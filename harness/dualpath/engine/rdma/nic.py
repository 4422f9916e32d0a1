"""An open NIC: what is registered with it, its queue pairs, and their completions."""

from __future__ import annotations

import resource
import threading
import time

from dualpath.engine.pacer import Lane
from dualpath.engine.rdma.memory import Memory
from dualpath.engine.rdma.port import open_port
from dualpath.engine.rdma.queue_pair import NAP_S, RECEIVE_DEPTH, SEND_DEPTH, Posted, QueuePair
from dualpath.engine.rdma.settings import RdmaError, RdmaSettings

_SPIN_S = 20e-6
_NOTICE_BYTES = 4096
_LOOK = 64  # completions taken at once


class Nic:
    """Thread-safe. Close it last; queue pairs may go in any order before."""

    def __init__(self, settings: RdmaSettings, num_pairs: int = 1) -> None:
        """num_pairs: queue pairs that will be made. Raises RdmaError."""
        self.settings = settings
        self._port = open_port(settings)
        self.facts, self.gid_index = self._port.facts, self._port.gid_index
        verbs, context = self._port.verbs, self._port.context
        self._lock = threading.RLock()
        self._pd = verbs.pd.PD(context)
        depth, most = num_pairs * (SEND_DEPTH + RECEIVE_DEPTH), context.query_device().max_cqe
        if depth > most:
            raise RdmaError(
                f"{self.facts.device}: {num_pairs} queue pairs need {depth:,} completions in a queue, the device has "
                f"{most:,}; use fewer engines"
            )
        self._completions = verbs.cq.CQ(context, depth, None, None, 0)
        self._pairs: dict[int, QueuePair] = {}
        self._memory: list[Memory] = []
        self._notice_place: Memory | None = None
        self._is_closed = False

    def register(self, address: int, num_bytes: int, *, is_shared: bool) -> Memory:
        """Pin memory; where it is shared, peers may read and write it. Raises RdmaError, mostly for a limit."""
        try:
            handle = self._port.verbs.mr.MR(self._pd, num_bytes, self._access(is_shared), address=address)
        except self._port.failure as error:
            soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
            limit = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft:,} bytes"
            raise RdmaError(
                f"{self.facts.device}: {num_bytes:,} bytes cannot be registered ({error}); this process may lock "
                f"{limit}: raise it with `ulimit -l unlimited`, or lower the buffers of the cluster file"
            ) from None
        return self._keep(Memory(address, num_bytes, handle.lkey, handle.rkey, is_shared, handle))

    def register_dma_buf(self, fd: int, offset: int, num_bytes: int) -> Memory:
        """Device memory that a dma-buf stands for, for local use. Its addresses count from the buffer's begin. Raises
        RdmaError where the NIC, its driver or pyverbs cannot."""
        try:
            handle = self._port.verbs.mr.DmaBufMR(self._pd, num_bytes, self._access(False), dmabuf=fd, offset=offset)
        except (self._port.failure, TypeError, AttributeError) as error:  # the latter two: an older pyverbs
            raise RdmaError(f"{self.facts.device}: no registration of dma-buf memory: {error}") from None
        return self._keep(Memory(offset, num_bytes, handle.lkey, handle.rkey, False, handle))

    def _access(self, is_shared: bool) -> int:
        enums = self._port.enums
        local: int = enums.IBV_ACCESS_LOCAL_WRITE
        return local | enums.IBV_ACCESS_REMOTE_WRITE | enums.IBV_ACCESS_REMOTE_READ if is_shared else local

    def _keep(self, memory: Memory) -> Memory:
        self._memory.append(memory)
        return memory

    @property
    def registered_bytes(self) -> int:
        return sum(memory.num_bytes for memory in self._memory)

    @property
    def num_regions(self) -> int:
        return len(self._memory)

    def queue_pair(self, lane: Lane = "kv", *, hears_notices: bool = False) -> QueuePair:
        """A reliable connection that is not connected yet; its packets are marked as its lane's. hears_notices: the
        peer will tell when its writes are there, and this end counts that."""
        if hears_notices and self._notice_place is None:
            handle = self._port.verbs.mr.MR(self._pd, _NOTICE_BYTES, self._port.enums.IBV_ACCESS_LOCAL_WRITE)
            self._notice_place = Memory(handle.buf, _NOTICE_BYTES, handle.lkey, handle.rkey, False, handle)
        place = self._notice_place if hears_notices else None
        with self._lock:
            pair = QueuePair(self._port, self._pd, self._completions, lane, place, self._lock, self.look, self._forget)
            self._pairs[pair.end.number] = pair
        return pair

    def _forget(self, pair: QueuePair) -> None:
        del self._pairs[pair.end.number]

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
                    "stands still; see --network-timeout"
                )
            if now_s > spin_until_s:
                time.sleep(NAP_S)

    def look(self) -> bool:
        """Take completions that are there; whether there may be more."""
        with self._lock:
            if self._is_closed:
                return False
            num, completions = self._completions.poll(num_entries=_LOOK)
            for completion in completions[:num]:
                if completion.qp_num in self._pairs:  # else: what was under way when it was closed
                    self._pairs[completion.qp_num].completed(completion)
            return bool(num == _LOOK)

    def close(self) -> None:
        """Idempotent. Queue pairs first, then memory, then what they were made from."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            for pair in list(self._pairs.values()):
                pair.close()
            for memory in self._memory:
                memory.handle.close()
            self._memory.clear()
            if self._notice_place is not None:
                self._notice_place.handle.close()
                self._notice_place = None
            for part in (self._completions, self._pd, self._port.context):
                part.close()
