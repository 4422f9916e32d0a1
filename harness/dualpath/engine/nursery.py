"""Where the processes of engines come from: one process has imported what an engine needs, and forks them.

    Host -- setup, environment, file descriptors --> `python -m dualpath.engine.nursery FD PROGRAM` -- fork --> engine
         <- ready; pid and pidfd; how it ended -----

To import torch takes seconds of a core, and a minute where the processor is emulated: so it is done once, for all
engines of all runs of a coordinator. The nursery starts no thread and touches no GPU, so that what it forks is as good
as new. It ends when who started it is gone, and its engines end when it has.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from dualpath.core.errors import WorkerError
from dualpath.engine.forked import forked
from dualpath.engine.messages import EngineSetup, Message

Program: TypeAlias = Literal["worker", "null_engine", "stub_engine"]  # modules that have `run(setup)`

# glibc: keep what is freed. Else, in some processes and not in others, as their heaps happen to lie, every freed tensor
# goes back to the system and is faulted in again, page by page: decode steps then take twice their time.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
# Or numpy starts threads when it is imported. Engines have what the user has set.
_NO_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_ANSWER_S = 10.0  # for how an engine ended that has ended
_MOST_BYTES = 1 << 20  # of a message
_MOST_FDS = 253  # the kernel's limit for one message


class Fork(Message, frozen=True):
    """Comes with file descriptors: the log, then those of the setup, as `_fds` has them."""

    setup: EngineSetup
    environment: dict[bytes, bytes]


class Ready(Message, frozen=True):
    """All is imported."""


class NotForked(Message, frozen=True):
    why: str


class Forked(Message, frozen=True):
    """Comes with a pidfd."""

    pid: int


class Ended(Message, frozen=True):
    pid: int
    status: int  # negative: a signal


_FromNursery: TypeAlias = Ready | NotForked | Forked | Ended


class Child(NamedTuple):
    """A forked engine."""

    pid: int
    pidfd: int  # the holder's to close

    def has_ended(self, within_s: float = 0.0) -> bool:
        return _is_readable(self.pidfd, within_s)

    def send_signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            signal.pidfd_send_signal(self.pidfd, number)


class Nursery:
    """As seen by the process that starts it."""

    def __init__(self, program: Program) -> None:
        self._owner = os.getpid()
        self._is_ready = False
        self._statuses: dict[int, int] = {}
        self._lock = threading.Lock()  # one question at a time
        self._socket, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with there:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dualpath.engine.nursery", str(there.fileno()), program],
                stdin=subprocess.DEVNULL,
                env={**_ALLOCATOR, **os.environ, **_NO_THREADS},
                pass_fds=[there.fileno()],
                process_group=0,  # Ctrl-C is the coordinator's to handle
            )
        atexit.register(self.close)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_usable(self) -> bool:
        """Not where it has ended, nor by a forked child of who started it."""
        fd = self._socket.fileno()
        return fd >= 0 and self._owner == os.getpid() and not _is_readable(fd, 0.0, select.POLLRDHUP)

    def wait(self) -> None:
        """Until all is imported; else the first engine waits for it. Raises WorkerError."""
        with self._asking():
            while not self._is_ready:
                self._receive()

    def fork(self, setup: EngineSetup, environment: dict[bytes, bytes], log: Path) -> Child:
        """Start an engine. Raises WorkerError."""
        message = msgspec.msgpack.encode(Fork(setup, environment))
        with self._asking(), log.open("wb") as file:
            socket.send_fds(self._socket, [message], [file.fileno(), *_fds(setup)])
            while True:
                match self._receive():
                    case NotForked(why=why), _:
                        raise WorkerError(f"no engine can be forked: {why}")
                    case Forked(pid=pid), [pidfd]:
                        self._statuses.pop(pid, None)  # of one that had this number before
                        return Child(pid, pidfd)
                    case Forked(pid=pid), _:
                        os.kill(pid, signal.SIGKILL)
                        raise WorkerError("this process has no file descriptor left for an engine; raise ulimit -n")

    def status(self, pid: int) -> int | None:
        """How an engine of this nursery ended, which it has. None: nobody knows."""
        try:
            with self._asking():
                while pid not in self._statuses:
                    if not _is_readable(self._socket.fileno(), _ANSWER_S):
                        return None
                    self._receive()
                return self._statuses[pid]
        except WorkerError:
            return None

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """One at a time. Raises WorkerError where no answer can be had."""
        with self._lock:
            try:
                yield
            except (OSError, EOFError) as error:
                raise WorkerError(f"what starts engines (pid {self.pid}) gives no answer: {error}") from error
            except KeyboardInterrupt:  # or the next to ask would have this answer
                self.close()
                raise

    def _receive(self) -> tuple[_FromNursery, list[int]]:
        payload, fds, _, _ = socket.recv_fds(self._socket, _MOST_BYTES, _MOST_FDS, socket.MSG_CMSG_CLOEXEC)
        if not payload:
            raise EOFError("it has ended")
        message = msgspec.msgpack.decode(payload, type=_FromNursery)
        match message:
            case Ready():
                self._is_ready = True
            case Ended():
                self._statuses[message.pid] = message.status
        return message, fds

    def close(self) -> None:
        """It ends, and its engines with it. Idempotent."""
        atexit.unregister(self.close)
        self._socket.close()
        if self._owner == os.getpid():
            self._process.kill()  # or it would first import to the end
            self._process.wait()


_nurseries: dict[Program, Nursery] = {}


def nursery(program: Program) -> Nursery:
    """This process's; it imports from the moment it is first asked for."""
    known = _nurseries.get(program)
    if known is None or not known.is_usable:
        if known is not None:
            known.close()
        known = _nurseries[program] = Nursery(program)
    return known


def _is_readable(fd: int, within_s: float, event: int = select.POLLIN) -> bool:
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(within_s * 1e3))


def _fds(setup: EngineSetup) -> list[int]:
    weights = [setup.weights.board_fd, setup.weights.ready_fd] if setup.weights else []
    return [setup.pacer_fd, *(fd for fd in setup.buffer_fds if fd >= 0), *weights]


def _with_fds(setup: EngineSetup, fds: list[int]) -> EngineSetup:
    """As they are numbered here."""
    pacer_fd, *rest = fds
    left = iter(rest)
    buffer_fds = [next(left) if fd >= 0 else -1 for fd in setup.buffer_fds]
    weights = setup.weights and msgspec.structs.replace(setup.weights, board_fd=next(left), ready_fd=next(left))
    return msgspec.structs.replace(setup, pacer_fd=pacer_fd, buffer_fds=buffer_fds, weights=weights)


# --- the nursery's own process -------------------------------------------------------------------------------------


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = socket.socket(fileno=int(sys.argv[1]))
    run: Callable[[EngineSetup], None] = import_module(f"dualpath.engine.{sys.argv[2]}").run
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "what is forked has the thread that forks, and no other"
    gc.collect()
    gc.freeze()  # what is imported is not looked through again, by none of the processes
    channel.send(msgspec.msgpack.encode(Ready()))
    children: dict[int, tuple[int, ForkProcess]] = {}  # pidfd -> pid, process
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == channel.fileno():
                payload, fds, _, _ = socket.recv_fds(channel, _MOST_BYTES, _MOST_FDS, socket.MSG_CMSG_CLOEXEC)
                if not payload:
                    return
                try:
                    pid, pidfd, child = _fork(run, msgspec.msgpack.decode(payload, type=Fork), fds, channel)
                except OSError as error:  # no more processes, or descriptors
                    channel.send(msgspec.msgpack.encode(NotForked(str(error))))
                else:
                    children[pidfd] = pid, child
                    poll.register(pidfd, select.POLLIN)
                    socket.send_fds(channel, [msgspec.msgpack.encode(Forked(pid))], [pidfd])
                finally:
                    for received in fds:
                        os.close(received)
            else:
                poll.unregister(fd)
                pid, child = children.pop(fd)
                child.join()
                os.close(fd)
                channel.send(msgspec.msgpack.encode(Ended(pid, child.exitcode or 0)))


def _fork(
    run: Callable[[EngineSetup], None], fork: Fork, fds: list[int], channel: socket.socket
) -> tuple[int, int, ForkProcess]:
    """Returns pid, pidfd, process. Raises OSError."""
    if len(fds) != 1 + len(_fds(fork.setup)):
        raise OSError("file descriptors did not arrive; raise ulimit -n")
    setup = _with_fds(msgspec.structs.replace(fork.setup, parent_pid=os.getpid()), fds[1:])

    def become() -> None:
        channel.close()
        os.dup2(fds[0], 1)
        os.dup2(fds[0], 2)
        os.environb.clear()
        os.environb.update(fork.environment)
        run(setup)

    child = forked(f"engine-{setup.engine}", become)
    assert child.pid is not None
    try:
        return child.pid, os.pidfd_open(child.pid), child
    except OSError:
        child.kill()
        child.join()
        raise


if __name__ == "__main__":
    try:
        main()
    except ConnectionError:  # who started it is gone
        pass
    except Exception:  # the process's boundary
        traceback.print_exc()
    os._exit(0)  # without waiting for engines, which see that it has ended
