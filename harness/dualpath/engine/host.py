"""Engine processes of one host: started, watched, ended. Nothing is left behind: shared memory has no names, and a
process whose parent is gone ends by itself."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec

from dualpath.core.cluster import Cluster
from dualpath.engine.data_path import link_rates
from dualpath.engine.devices import shown, visible_device
from dualpath.engine.geometry import buffer_bytes
from dualpath.engine.messages import EngineSetup, WeightsShare
from dualpath.engine.nursery import Child, Nursery, Program, nursery
from dualpath.engine.pacer import Pacer
from dualpath.engine.shared_weights import new_board
from dualpath.engine.wire import TOKEN_VARIABLE

_END_TIMEOUT_S = 10


class Host:
    """Use `start` once; who polls `pidfds` learns of deaths."""

    def __init__(self, log_directory: Path, token: str) -> None:
        self._log_directory = log_directory
        self._token = token
        self._nursery: Nursery | None = None
        self._children: dict[int, Child] = {}
        self.pidfds: dict[int, int] = {}  # pidfd -> engine, of those that are watched

    def start(self, setup: EngineSetup, engines: Sequence[int]) -> None:
        """Start engines that share the memory they are to share. setup: all that is the same for them."""
        cluster = msgspec.msgpack.decode(setup.cluster, type=Cluster)
        devices = {engine: visible_device(number) for number, engine in enumerate(engines)}
        self._nursery = nursery(_program(setup))
        with ExitStack() as ours:  # engines have copies
            pacer = ours.enter_context(closing(Pacer.create(link_rates(cluster))))
            fds = {engine: _anonymous_memory(buffer_bytes(cluster, engine)) for engine in engines}
            shares = {} if setup.null else _weights_shares(devices)
            for fd in {*fds.values(), *(fd for share in shares.values() for fd in (share.board_fd, share.ready_fd))}:
                ours.callback(os.close, fd)
            for engine in engines:
                # a PE reads and writes every DE's buffer, over a network or in memory they share; a DE its own only
                is_shared = setup.network is None and engine < cluster.num_prefill
                wanted = [
                    fds.get(peer, -1) if peer == engine or (is_shared and peer >= cluster.num_prefill) else -1
                    for peer in range(cluster.num_engines)
                ]
                own = {
                    "counts_port": engine == engines[0],
                    "engine": engine,
                    "pacer_fd": pacer.fileno(),
                    "buffer_fds": wanted,
                    "weights": shares.get(engine),
                }
                child = self._nursery.fork(
                    msgspec.structs.replace(setup, **own), self._environment(devices[engine]), self._log(engine)
                )
                self._children[engine] = child
                self.pidfds[child.pidfd] = engine

    def _environment(self, device: str | None) -> dict[bytes, bytes]:
        named = {"OMP_NUM_THREADS": "1", **os.environ, **(shown(device) if device is not None else {})}
        named[TOKEN_VARIABLE] = self._token
        return {os.fsencode(name): os.fsencode(value) for name, value in named.items()}

    @property
    def pids(self) -> dict[int, int]:
        return {engine: child.pid for engine, child in self._children.items()}

    def forget(self, engine: int) -> None:
        """Watch the engine's process no longer."""
        self.pidfds.pop(self._children[engine].pidfd, None)

    def death(self, engine: int) -> str:
        """How an engine ended that has ended."""
        child = self._children[engine]
        status = self._status(child)
        how = "has ended" if status is None else f"exited with status {status}"
        if status is not None and status < 0:
            how = f"was killed by {signal.Signals(-status).name}"
        return f"engine {engine} (pid {child.pid}) {how}{self.last_words(engine)}"

    def _status(self, child: Child) -> int | None:
        """Returns when there is no such process any more."""
        return self._nursery.status(child.pid) if self._nursery is not None else None

    def last_words(self, engine: int) -> str:
        path = self._log(engine)
        lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
        return f"; its last words, in {path}: {lines[-1]}" if lines else ""

    def _log(self, engine: int) -> Path:
        return self._log_directory / f"engine-{engine}.log"

    def close(self) -> None:
        """End all engines, by force where they do not end by themselves. Idempotent."""
        self.pidfds.clear()
        children, self._children = self._children, {}
        for child in children.values():
            child.send_signal(signal.SIGTERM)
        deadline_s = time.monotonic() + _END_TIMEOUT_S
        for child in children.values():
            if not child.has_ended(max(0.1, deadline_s - time.monotonic())):
                child.send_signal(signal.SIGKILL)
                child.has_ended(_END_TIMEOUT_S)
            self._status(child)
            os.close(child.pidfd)


def _program(setup: EngineSetup) -> Program:
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
