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
from dualpath.engine.messages import TOKEN_VARIABLE, EngineSetup, Failed, Hello, Summary, ToCoordinator, ToEngine

_START_TIMEOUT_S = 60
_END_TIMEOUT_S = 10


class EngineProcesses:
    """One process per engine and the socket to them. Use as a context manager."""

    def __init__(self, log_directory: Path, host: str = "127.0.0.1") -> None:
        self._log_directory = log_directory
        self._context = zmq.Context[zmq.Socket[bytes]](io_threads=1)
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.router_mandatory = True
        self.address = f"tcp://{host}:{self._socket.bind_to_random_port(f'tcp://{host}')}"
        self.token = secrets.token_hex(16)
        self._decoder = msgspec.msgpack.Decoder(ToCoordinator)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._pidfds: dict[int, int] = {}  # pidfd -> engine

    def start(self, setup: EngineSetup) -> None:
        """Start one engine; it inherits the memory it is to share."""
        log = (self._log_directory / f"engine-{setup.engine}.log").open("wb")
        environment = dict(os.environ)
        environment[TOKEN_VARIABLE] = self.token
        environment.setdefault("OMP_NUM_THREADS", "1")
        with log:
            child = subprocess.Popen(
                [sys.executable, "-m", "dualpath.engine.worker"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=[setup.pacer_fd, *(fd for fd in setup.buffer_fds if fd >= 0)],
            )
        self._children[setup.engine] = child
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
            self._socket.send_multipart([str(engine).encode(), msgspec.msgpack.encode(message)])
        except zmq.ZMQError as error:
            raise WorkerError(f"engine {engine} cannot be reached: {error}{self._last_words(engine)}") from error

    def receive(self, timeout_s: float) -> list[ToCoordinator]:
        """Messages that have come, or come within the time. Raises WorkerError where an engine has died."""
        ready = dict(self._poller.poll(math.ceil(max(0.0, timeout_s) * 1e3)))
        messages: list[ToCoordinator] = []
        if self._socket in ready:
            while True:
                try:
                    _, payload = self._socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                messages.append(self._decoder.decode(payload))
        if messages:
            return messages  # a dying engine's last message says more than its exit status
        for pidfd in ready:
            if pidfd in self._pidfds:
                self._died(self._pidfds[pidfd])
        return messages

    def receive_from_all(self, kind: type[Hello] | type[Summary]) -> list[Hello | Summary | Failed]:
        """One message of a kind from every engine; others that come meanwhile are dropped, but a failure ends the
        wait and is returned last."""
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        waiting = set(self._children)
        found: list[Hello | Summary | Failed] = []
        while waiting:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise WorkerError(f"engines {sorted(waiting)} did not answer within {_START_TIMEOUT_S} s")
            for message in self.receive(left_s):
                if isinstance(message, Failed):
                    return [*found, message]
                if isinstance(message, kind):
                    found.append(message)
                    waiting.discard(message.engine)
        return found

    def forget(self, engine: int) -> None:
        """From here on the engine may exit."""
        for pidfd, owner in list(self._pidfds.items()):
            if owner == engine:
                self._poller.unregister(pidfd)
                os.close(pidfd)
                del self._pidfds[pidfd]

    def close(self) -> None:
        """End all engines, by force where they do not end by themselves."""
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
        self._socket.close()
        self._context.term()

    def _died(self, engine: int) -> None:
        child = self._children[engine]
        status = child.wait()
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        raise WorkerError(f"engine {engine} (pid {child.pid}) {how}{self._last_words(engine)}")

    def _last_words(self, engine: int) -> str:
        path = self._log_directory / f"engine-{engine}.log"
        lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
        return f"; its last words, in {path}: {lines[-1]}" if lines else ""
