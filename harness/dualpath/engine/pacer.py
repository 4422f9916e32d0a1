"""NIC rates, enforced across processes: who may say "these bytes have passed the link", and when.

The model, per link (one direction of one NIC; the caller numbers them):

- A link serves `rate` bytes/s as long as work waits, as a fluid: never faster, never idle with work waiting.
- It has two lanes, each first in, first out. While both have work, `model` gets 99 % and `kv` 1 % of the rate; while
  one is empty the other gets all of it. (Paper, section 4: about 99 % is kept for the high-priority virtual lane,
  idle bandwidth is usable by KV, the rest avoids starvation. The paper's weights give KV even less under full
  backlog; the nominal figure is what is built here.)
- A reservation is a place in a lane. Its end is computed from all the work accepted so far. Work that arrives later in
  its own lane never changes it; work that arrives in the other lane can only move it later. So whoever waits asks
  again at the end it was told: `wait` does. Model traffic therefore waits for no KV at all, however long the KV
  promised before it (it loses 1 % of the rate); KV pays by waiting longer.
- All of it is integer arithmetic on nanobytes (one byte = 10^9): a link of R bytes/s serves exactly R nanobytes each
  ns, so ends are exact to the ns, and however long a run is nothing drifts.
- A link of rate None is `native`: reservations end when they start, and nothing is counted.

A link idles whenever nobody has reserved. To keep it busy, reserve the next transfer before waiting for the last one.

The state lives in an anonymous memory file (memfd) that the coordinator creates and workers inherit as an open file:
nothing is left behind whatever is killed. Processes exclude each other by a byte-range lock per link, which the kernel
drops when its holder dies; a new state becomes valid by one byte, so a holder killed midway leaves the old one.
The bytes a dead process had reserved are still served. A process must hold one `Pacer`, and never close a copy of its
file descriptor: POSIX drops a process's locks on a file when any descriptor of it is closed.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, TypeAlias

from dualpath.core.errors import ClusterError

Lane: TypeAlias = Literal["kv", "model"]

MODEL_SHARE_PERCENT: Final = 99

_NB: Final = 1_000_000_000  # nanobytes per byte
_MAGIC: Final = b"dp-pacer"
_HEADER: Final = struct.Struct("<8sQ")  # magic, number of links
_LINK_BYTES: Final = 256
_INT_BYTES: Final = 16  # nanobyte counts outgrow 64 bits after 9 GB
_STATE_BYTES: Final = 5 * _INT_BYTES
_RATE_AT, _WHICH_AT, _STATES_AT = 0, 8, 16  # offsets in a link's record

_PR_SET_TIMERSLACK: Final = 29
_libc = ctypes.PyDLL(None)  # whose functions keep the interpreter's lock


class _Flock(ctypes.Structure):
    """The C library's struct flock, on 64-bit Linux."""

    _fields_ = (
        ("kind", ctypes.c_short),
        ("whence", ctypes.c_short),
        ("start", ctypes.c_int64),
        ("num", ctypes.c_int64),
        ("pid", ctypes.c_int),
    )


_thread = threading.local()


@dataclass(frozen=True, slots=True)
class Reservation:
    """A transfer's place in a lane. Times are CLOCK_MONOTONIC ns; `end_ns` holds unless the other lane gets work."""

    link: int
    lane: Lane
    num_bytes: int
    start_ns: int
    end_ns: int
    position: int  # nanobytes the lane has served when this transfer has passed; 0 on a native link


@dataclass(slots=True)
class LinkState:
    """One link's books at `at_ns`, all amounts in nanobytes. Pure: knows neither clock nor shared memory."""

    rate: int  # bytes/s = nanobytes/ns
    at_ns: int = 0
    kv_accepted: int = 0
    kv_served: int = 0
    model_accepted: int = 0
    model_served: int = 0

    def advance(self, now_ns: int) -> None:
        """Serves what the link could serve until `now_ns`. A time already passed changes nothing."""
        if now_ns <= self.at_ns:
            return
        capacity = self.rate * (now_ns - self.at_ns)
        self.at_ns = now_ns
        kv, model = self.kv_accepted - self.kv_served, self.model_accepted - self.model_served
        if kv and model:
            # both lanes wait until the first of them is empty: at 99:1, after this much work of both
            together = min(capacity, model * 100 // MODEL_SHARE_PERCENT, kv * 100 // (100 - MODEL_SHARE_PERCENT))
            model_part = min(model, -(-together * MODEL_SHARE_PERCENT // 100))
            kv_part = min(kv, together - model_part)
            self.model_served += model_part
            self.kv_served += kv_part
            capacity -= model_part + kv_part
            kv, model = kv - kv_part, model - model_part
        # from here on one lane is empty, or the time is used up
        self.model_served += min(capacity, model)
        self.kv_served += min(capacity, kv)

    def passed_ns(self, lane: Lane, position: int) -> int:
        """When the lane has served `position` nanobytes, if nothing more arrives; `at_ns` where it has already.

        A lane with `own` nanobytes ahead, the other with `other`, and a share of s %: either the other outlasts it,
        and it passes at own / (s % of the rate), or the other is empty before, and both have passed: own + other.
        """
        kv, model = self.kv_accepted - self.kv_served, self.model_accepted - self.model_served
        if lane == "kv":
            own, other, share = position - self.kv_served, model, 100 - MODEL_SHARE_PERCENT
        else:
            own, other, share = position - self.model_served, kv, MODEL_SHARE_PERCENT
        if own <= 0:
            return self.at_ns
        work = min(-(-own * 100 // share), own + other)
        return self.at_ns - (-work // self.rate)

    def accept(self, lane: Lane, num_bytes: int) -> tuple[int, int, int]:
        """Adds a transfer behind its lane: (start_ns, end_ns, position)."""
        if lane == "kv":
            before = self.kv_accepted
            self.kv_accepted += num_bytes * _NB
        else:
            before = self.model_accepted
            self.model_accepted += num_bytes * _NB
        position = before + num_bytes * _NB
        return self.passed_ns(lane, before), self.passed_ns(lane, position), position


class Pacer:
    """The links of a cluster, shared by its processes. Thread-safe; usable by every process that attached it."""

    def __init__(self, fd: int) -> None:
        """Maps the memory file `fd` and owns it from here on; see `create` and `attach`."""
        self._fd = fd
        self._memory = mmap.mmap(fd, os.fstat(fd).st_size)
        magic, self.num_links = _HEADER.unpack_from(self._memory, 0)
        assert magic == _MAGIC, f"file descriptor {fd} is not a pacer's"
        # one thread of this process at a time: POSIX locks belong to the process, not to the thread
        self._lock = threading.Lock()
        self._file_lock = _FileLock(fd)
        self._rates = [
            int.from_bytes(self._memory[base + _RATE_AT : base + _RATE_AT + 8], "little")
            for base in (self._base(link) for link in range(self.num_links))
        ]

    @classmethod
    def create(cls, rates: Sequence[float | None]) -> Pacer:
        """New links, by index, of these rates in bytes/s (None: native). Raises ClusterError on a rate below 1 B/s."""
        for link, rate in enumerate(rates):
            if rate is not None and not 1 <= rate < 2**60:
                raise ClusterError(
                    f"link {link}: rate {rate!r} bytes/s; it must be at least 1 B/s, or native (no pacing)"
                )
        fd = os.memfd_create("dualpath-pacer")
        os.ftruncate(fd, (len(rates) + 1) * _LINK_BYTES)
        header = bytearray(_LINK_BYTES * (len(rates) + 1))
        _HEADER.pack_into(header, 0, _MAGIC, len(rates))
        for link, rate in enumerate(rates):
            struct.pack_into("<Q", header, cls._base(link) + _RATE_AT, round(rate or 0))
        os.pwrite(fd, header, 0)
        return cls(fd)

    @classmethod
    def attach(cls, fd: int) -> Pacer:
        """The same links in a worker, from the descriptor it inherited (`subprocess.Popen(pass_fds=[...])`)."""
        return cls(fd)

    def fileno(self) -> int:
        """The descriptor to pass on."""
        return self._fd

    def rate(self, link: int) -> int | None:
        """Bytes/s; None on a native link."""
        return self._rates[link] or None

    def busy_ns(self, link: int, num_bytes: int) -> int:
        """Time the link itself spends on `num_bytes`; 0 on a native link."""
        return -(-num_bytes * _NB // self._rates[link]) if self._rates[link] else 0

    def reserve(self, link: int, num_bytes: int, lane: Lane, now_ns: int) -> Reservation:
        """Takes a place behind the lane. Does not wait. `now_ns` is CLOCK_MONOTONIC (`time.monotonic_ns`)."""
        return self.reserve_all([link], num_bytes, lane, now_ns)[0]

    def reserve_all(self, links: Sequence[int], num_bytes: int, lane: Lane, now_ns: int) -> list[Reservation]:
        """The same bytes on several links at once, each once: one transfer that crosses them all, done when the last
        of them is. All places are taken in one step, so two transfers have the same order on every shared link."""
        if num_bytes < 0:
            raise ValueError(f"cannot reserve {num_bytes} bytes")
        paced = sorted({link for link in links if self._rates[link]})
        taken: dict[int, Reservation] = {}
        with self._holding(paced):
            for link in paced:
                state = self._load(link)
                state.advance(now_ns)
                start_ns, end_ns, position = state.accept(lane, num_bytes)
                self._save(link, state)
                taken[link] = Reservation(link, lane, num_bytes, start_ns, end_ns, position)
        native = [Reservation(link, lane, num_bytes, now_ns, now_ns, 0) for link in links]
        return [taken.get(reservation.link, reservation) for reservation in native]

    def passed_ns(self, reservation: Reservation, now_ns: int) -> int:
        """When the transfer will have passed, as far as is known now; `now_ns` where it has (or earlier: native)."""
        if not self._rates[reservation.link]:
            return reservation.end_ns
        state = self.state(reservation.link, now_ns)
        passed_ns = state.passed_ns(reservation.lane, reservation.position)
        return passed_ns if passed_ns > state.at_ns else now_ns

    def wait(self, *reservations: Reservation) -> int:
        """Sleeps until all have passed and returns when the last one did (virtual time, not the time of waking)."""
        last_ns = 0
        for reservation in reservations:
            end_ns = reservation.end_ns
            while True:
                wait_until(end_ns)
                later_ns = self.passed_ns(reservation, end_ns)
                if later_ns <= end_ns:
                    break
                end_ns = later_ns
            last_ns = max(last_ns, end_ns)
        return last_ns

    def state(self, link: int, now_ns: int) -> LinkState:
        """A copy of a paced link's books, advanced to `now_ns` (or to the last event there, if that is later)."""
        with self._holding([link]):
            state = self._load(link)
        state.advance(now_ns)
        return state

    def close(self) -> None:
        """Idempotent. The links live on in the processes that still hold them."""
        if self._fd >= 0:
            self._memory.close()
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Pacer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @staticmethod
    def _base(link: int) -> int:
        return (link + 1) * _LINK_BYTES

    @contextmanager
    def _holding(self, links: Sequence[int]) -> Iterator[None]:
        """Exclusive use of `links` (ascending, so that two holders cannot wait for each other)."""
        if not links:
            yield
            return
        with self._lock:
            held: list[int] = []
            try:
                for link in links:
                    if not self._file_lock.try_lock(self._base(link)):
                        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, self._base(link))
                    held.append(link)
                yield
            finally:
                for link in held:
                    self._file_lock.unlock(self._base(link))

    def _load(self, link: int) -> LinkState:
        base = self._base(link)
        start = base + _STATES_AT + self._memory[base + _WHICH_AT] * _STATE_BYTES
        raw = self._memory[start : start + _STATE_BYTES]
        at_ns, kv_accepted, kv_served, model_accepted, model_served = (
            int.from_bytes(raw[at : at + _INT_BYTES], "little") for at in range(0, _STATE_BYTES, _INT_BYTES)
        )
        return LinkState(self._rates[link], at_ns, kv_accepted, kv_served, model_accepted, model_served)

    def _save(self, link: int, state: LinkState) -> None:
        base = self._base(link)
        other = 1 - self._memory[base + _WHICH_AT]
        start = base + _STATES_AT + other * _STATE_BYTES
        fields = (state.at_ns, state.kv_accepted, state.kv_served, state.model_accepted, state.model_served)
        self._memory[start : start + _STATE_BYTES] = b"".join(n.to_bytes(_INT_BYTES, "little") for n in fields)
        self._memory[base + _WHICH_AT] = other  # the one store that makes the new state valid


class _FileLock:
    """Locks on bytes of a file, as fcntl.lockf's, by one thread at a time; but the interpreter's lock is kept. Where
    eight threads of an engine take links a thousand times a second, to let go of it for a microsecond's system call
    costs a hundred microseconds until it is had again."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._region = _Flock(whence=os.SEEK_SET, num=1)
        self._at = ctypes.byref(self._region)

    def try_lock(self, offset: int) -> bool:
        """False where another process has it, or the system wants to be asked again."""
        return self._set(fcntl.F_WRLCK, offset)

    def unlock(self, offset: int) -> None:
        self._set(fcntl.F_UNLCK, offset)

    def _set(self, kind: int, offset: int) -> bool:
        self._region.kind, self._region.start = kind, offset
        return not _libc.fcntl(self._fd, fcntl.F_SETLK, self._at)


def wait_until(end_ns: int) -> None:
    """Sleeps until CLOCK_MONOTONIC reaches `end_ns`; no spinning. Overshoot is tens of us with the timer slack of
    this thread set to 1 ns, which the first call does (where the system has it)."""
    if not getattr(_thread, "slack_set", False):
        libc = ctypes.CDLL(None)
        if hasattr(libc, "prctl"):
            libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
        _thread.slack_set = True
    while (left_ns := end_ns - time.monotonic_ns()) > 0:
        time.sleep(left_ns / 1e9)
