"""Engine processes of one host: started, watched, ended. Nothing is left behind: shared memory has no names, and a
process whose parent is gone ends by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from dualpath.core.cluster import Cluster
from dualpath.engine.data_path import link_rates
from dualpath.engine.devices import shown, visible_device
from dualpath.engine.geometry import buffer_bytes
from dualpath.engine.messages import EngineSetup, WeightsShare
from dualpath.engine.pacer import Pacer
from dualpath.engine.shared_weights import new_board
from dualpath.engine.wire import TOKEN_VARIABLE

# glibc: keep what is freed. Else, in some processes and not in others, as their heaps happen to lie, every freed tensor
# goes back to the system and is faulted in again, page by page: decode steps then take twice their time.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
_END_TIMEOUT_S = 10


class Host:
    """Use `start` once; who polls `pidfds` learns of deaths."""

    def __init__(self, log_directory: Path, token: str) -> None:
        self._log_directory = log_directory
        self._token = token
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self.pidfds: dict[int, int] = {}  # pidfd -> engine

    def start(self, setup: EngineSetup, engines: Sequence[int]) -> None:
        """Start engines that share the memory they are to share. setup: all that is the same for them."""
        cluster = msgspec.msgpack.decode(setup.cluster, type=Cluster)
        pacer = Pacer.create(link_rates(cluster))
        fds = {engine: _anonymous_memory(buffer_bytes(cluster, engine)) for engine in engines}
        devices = {engine: visible_device(number) for number, engine in enumerate(engines)}
        shares = {} if setup.null else _weights_shares(devices)
        for engine in engines:
            # a PE reads and writes every DE's buffer, over a network or in memory they share; a DE touches its own only
            is_shared = setup.network is None and engine < cluster.num_prefill
            wanted = [
                fds.get(peer, -1) if peer == engine or (is_shared and peer >= cluster.num_prefill) else -1
                for peer in range(cluster.num_engines)
            ]
            own = {
                "counts_port": engine == engines[0],
                "engine": engine,
                "parent_pid": os.getpid(),
                "pacer_fd": pacer.fileno(),
                "buffer_fds": wanted,
                "weights": shares.get(engine),
            }
            self._start(msgspec.structs.replace(setup, **own), devices[engine])
        for fd in {*fds.values(), *(fd for share in shares.values() for fd in (share.board_fd, share.ready_fd))}:
            os.close(fd)
        pacer.close()

    def _start(self, setup: EngineSetup, device: str | None) -> None:
        environment = dict(os.environ) | (shown(device) if device is not None else {})
        environment[TOKEN_VARIABLE] = self._token
        environment.setdefault("OMP_NUM_THREADS", "1")
        for name, value in _ALLOCATOR.items():
            environment.setdefault(name, value)
        weights_fds = [setup.weights.board_fd, setup.weights.ready_fd] if setup.weights else []
        with self._log(setup.engine).open("wb") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", f"dualpath.engine.{_program(setup)}"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=[setup.pacer_fd, *(fd for fd in setup.buffer_fds if fd >= 0), *weights_fds],
            )
        self._children[setup.engine] = child
        self.pidfds[os.pidfd_open(child.pid)] = setup.engine
        assert child.stdin is not None
        with child.stdin:
            child.stdin.write(msgspec.msgpack.encode(setup))

    @property
    def pids(self) -> dict[int, int]:
        return {engine: child.pid for engine, child in self._children.items()}

    def forget(self, engine: int) -> None:
        """Watch the engine's process no longer."""
        for pidfd, owner in list(self.pidfds.items()):
            if owner == engine:
                os.close(pidfd)
                del self.pidfds[pidfd]

    def death(self, engine: int) -> str:
        """How an engine ended that has ended."""
        child = self._children[engine]
        status = child.wait()
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        return f"engine {engine} (pid {child.pid}) {how}{self.last_words(engine)}"

    def last_words(self, engine: int) -> str:
        path = self._log(engine)
        lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
        return f"; its last words, in {path}: {lines[-1]}" if lines else ""

    def _log(self, engine: int) -> Path:
        return self._log_directory / f"engine-{engine}.log"

    def close(self) -> None:
        """End all engines, by force where they do not end by themselves. Idempotent."""
        for engine, child in self._children.items():
            self.forget(engine)
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        deadline_s = time.monotonic() + _END_TIMEOUT_S
        for child in self._children.values():
            try:
                child.wait(max(0.1, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _program(setup: EngineSetup) -> str:
    if setup.null:
        return "null_engine" if setup.delays is None else "stub_engine"
    return "worker"


def _weights_shares(devices: dict[int, str | None]) -> dict[int, WeightsShare]:
    """By engine, for those that share a GPU: the first has the weights. devices: by engine."""
    shares: dict[int, WeightsShare] = {}
    for device in set(devices.values()) - {None}:
        first, *others = [engine for engine, its in devices.items() if its == device]
        if others:
            shares[first] = new_board(len(others))
            for engine in others:
                shares[engine] = msgspec.structs.replace(shares[first], others=0)
    return shares


def _anonymous_memory(num_bytes: int) -> int:
    """A file descriptor of shared memory without a name: it goes when the last process that holds it goes."""
    fd = os.memfd_create("dualpath-buffer")
    os.ftruncate(fd, num_bytes)
    return fd
