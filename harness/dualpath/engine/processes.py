"""Engine processes: started, watched, ended. Nothing is left behind: shared memory has no names, and a process
whose parent is gone ends by itself."""

from __future__ import annotations

import math
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import zmq

from dualpath.core.errors import WorkerError
from dualpath.engine.messages import (
    TOKEN_VARIABLE,
    EngineSetup,
    Failed,
    Summary,
    ToCoordinator,
    ToEngine,
    identity,
)

# glibc: keep what is freed. Else, in some processes and not in others, as their heaps happen to lie, every freed tensor
# goes back to the system and is faulted in again, page by page: decode steps then take twice their time.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}

_START_TIMEOUT_S = 180  # an emulated machine takes half a minute to import torch
_END_TIMEOUT_S = 10
_LAST_MESSAGE_S = 0.3  # what a process sent before it ended arrives within this time


class EngineProcesses:
    """One process per engine and the socket to them. Who does not know the run's token is not heard."""

    def __init__(self, log_directory: Path, host: str = "127.0.0.1") -> None:
        self._log_directory = log_directory
        self._context = zmq.Context[zmq.Socket[bytes]](io_threads=1)
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.router_mandatory = True
        self.address = f"tcp://{host}:{self._socket.bind_to_random_port(f'tcp://{host}')}"
        self._token = secrets.token_hex(16)
        self._decoder = msgspec.msgpack.Decoder(ToCoordinator)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._pidfds: dict[int, int] = {}  # pidfd -> engine
        self._engines: dict[bytes, int] = {}  # identity on the socket -> engine
        self._dead: list[int] = []  # engines that have ended
        self._hear_until_s = 0.0  # until then the last message of one that has ended may arrive

    def start(self, setup: EngineSetup) -> None:
        """Start one engine; it inherits the memory it is to share."""
        log = (self._log_directory / f"engine-{setup.engine}.log").open("wb")
        environment = dict(os.environ)
        environment[TOKEN_VARIABLE] = self._token
        environment.setdefault("OMP_NUM_THREADS", "1")
        for name, value in _ALLOCATOR.items():
            environment.setdefault(name, value)
        with log:
            child = subprocess.Popen(
                [sys.executable, "-m", "dualpath.engine." + ("null_engine" if setup.null else "worker")],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=[setup.pacer_fd, *(fd for fd in setup.buffer_fds if fd >= 0)],
            )
        self._children[setup.engine] = child
        self._engines[identity(setup.engine, self._token)] = setup.engine
        pidfd = os.pidfd_open(child.pid)
        self._pidfds[pidfd] = setup.engine
        self._poller.register(pidfd, zmq.POLLIN)
        assert child.stdin is not None
        with child.stdin:
            child.stdin.write(msgspec.msgpack.encode(setup))

    @property
    def pids(self) -> dict[int, int]:
        return {engine: child.pid for engine, child in self._children.items()}

    def send(self, engine: int, message: ToEngine) -> None:
        try:
            self._socket.send_multipart([identity(engine, self._token), msgspec.msgpack.encode(message)])
        except zmq.ZMQError as error:
            raise WorkerError(f"engine {engine} cannot be reached: {error}{self._last_words(engine)}") from error

    def receive(self, timeout_s: float) -> list[ToCoordinator]:
        """Messages that have come, or come within the time. Raises WorkerError where an engine has died, after a moment
        in which its last message may still arrive: that says more than its exit status."""
        while not self._dead or time.monotonic() < self._hear_until_s:
            messages = self._poll(self._hear_until_s - time.monotonic() if self._dead else timeout_s)
            if messages or not self._dead:
                return messages
        raise self._death(self._dead[0])

    def answers(self) -> list[ToCoordinator]:
        """The next message of every engine, or those until one has failed. Raises WorkerError."""
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        found: list[ToCoordinator] = []
        while len(found) < len(self._children) and not any(isinstance(message, Failed) for message in found):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise WorkerError(
                    f"only {len(found)} of {len(self._children)} engines were ready within {_START_TIMEOUT_S} s; "
                    f"their logs are in {self._log_directory}"
                )
            found += self.receive(left_s)
        return found

    def last_messages(self, message: ToEngine) -> tuple[list[Summary], list[WorkerError]]:
        """Send `message` to every engine and collect the summaries of those that answer; why others did not."""
        summaries: list[Summary] = []
        errors: list[WorkerError] = []
        waiting: set[int] = set()
        for engine in self._children:
            try:
                self.send(engine, message)
                waiting.add(engine)
            except WorkerError as error:
                errors.append(error)
        deadline_s = time.monotonic() + _END_TIMEOUT_S
        while waiting and time.monotonic() < deadline_s:
            for answer in self._poll(min(_LAST_MESSAGE_S, deadline_s - time.monotonic())):
                if isinstance(answer, Summary):
                    summaries.append(answer)
                    waiting.discard(answer.engine)
            if waiting <= set(self._dead) and time.monotonic() >= self._hear_until_s:
                break
        errors += [
            self._death(engine)
            if engine in self._dead
            else WorkerError(f"engine {engine} gave no counts within {_END_TIMEOUT_S} s")
            for engine in sorted(waiting)
        ]
        return summaries, errors

    def _poll(self, timeout_s: float) -> list[ToCoordinator]:
        """Messages that have come or come within the time; engines found dead join `_dead`."""
        ready = dict(self._poller.poll(math.ceil(max(0.0, timeout_s) * 1e3)))
        messages: list[ToCoordinator] = []
        while self._socket in ready:
            try:
                sender, *payload = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            if sender in self._engines and len(payload) == 1:
                messages.append(self._decoder.decode(payload[0]))
        for pidfd in ready:
            if pidfd in self._pidfds:
                engine = self._pidfds[pidfd]
                self._dead.append(engine)
                self._hear_until_s = time.monotonic() + _LAST_MESSAGE_S
                self._forget(engine)
        return messages

    def _forget(self, engine: int) -> None:
        """Watch the engine's process no longer."""
        for pidfd, owner in list(self._pidfds.items()):
            if owner == engine:
                self._poller.unregister(pidfd)
                os.close(pidfd)
                del self._pidfds[pidfd]

    def close(self) -> None:
        """End all engines, by force where they do not end by themselves. Idempotent."""
        for engine, child in self._children.items():
            self._forget(engine)
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        deadline_s = time.monotonic() + _END_TIMEOUT_S
        for child in self._children.values():
            try:
                child.wait(max(0.1, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._socket.close()
        self._context.term()

    def _death(self, engine: int) -> WorkerError:
        child = self._children[engine]
        status = child.wait()
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        return WorkerError(f"engine {engine} (pid {child.pid}) {how}{self._last_words(engine)}")

    def _last_words(self, engine: int) -> str:
        path = self._log_directory / f"engine-{engine}.log"
        lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
        return f"; its last words, in {path}: {lines[-1]}" if lines else ""
