"""All engines of a run, on this host and on others: the socket to them, and who of them has died."""

from __future__ import annotations

import contextlib
import math
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import zmq

from dualpath.core.errors import WorkerError
from dualpath.engine.host import Host
from dualpath.engine.messages import (
    ClockReply,
    Dismissed,
    EngineEnded,
    EngineSetup,
    Failed,
    FromEngine,
    Present,
    Refused,
    StartEngines,
    Summary,
    ToCoordinator,
    ToEngine,
    ToHost,
)
from dualpath.engine.nursery import nursery
from dualpath.engine.wire import Socket, engine_identity, listen

_LOOPBACK = "tcp://127.0.0.1:*"
_START_TIMEOUT_S = 180  # an emulated machine takes half a minute
_END_TIMEOUT_S = 10
_LAST_MESSAGE_S = 0.3  # what a process sent before it ended arrives within this time
_LAST_FROM_AFAR_S = 3.0  # the same, where another host tells of the end
_SILENCE_S = 20  # of a host that is taken for lost; it speaks every second
_FAREWELL_MS = 1_000  # that the last words to hosts may take


@dataclass(frozen=True, slots=True)
class Listening:
    """How other hosts join."""

    address: str  # tcp://HOST:PORT to listen at
    token: str
    code: str  # digest of the sources that all of them must run
    wait_s: float  # for hosts that are to come


@dataclass(slots=True)
class JoinedHost:
    """A host that runs engines of this run."""

    name: str
    engines: list[int] = field(default_factory=list)
    offset_ns: int = 0  # to be added to its clock, when the run began,
    error_ns: int = 0  # and at most so wrong
    last_offset_ns: int = 0  # as told last
    last_error_ns: int = 0
    heard_s: float = 0.0


class EngineProcesses:
    """Who does not know the run's token is not heard."""

    def __init__(self, log_directory: Path, listening: Listening | None = None) -> None:
        """Listens on loopback only, unless told otherwise. Raises PlanError, WorkerError."""
        if listening:
            nursery("worker").wait()  # who joins is to be answered at once
        self._log_directory = log_directory
        self._listening = listening
        token = listening.token if listening else secrets.token_hex(16)
        self._context = zmq.Context[Socket](io_threads=1)
        self._socket, self.address = listen(self._context, listening.address if listening else _LOOPBACK, token)
        self._host = Host(log_directory, token)
        self._run = secrets.token_hex(8)
        self._decoder = msgspec.msgpack.Decoder(ToCoordinator)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._engines: list[int] = []  # that were started
        self._early: list[FromEngine] = []  # heard while waiting for hosts
        self._dead: dict[int, str] = {}  # engines that have ended, in order, and how where another host said so
        self._hear_until_s = 0.0  # until then the last message of one that has ended may arrive
        self._candidates: dict[bytes, Present] = {}  # hosts that have no engines of this run yet
        self.hosts: dict[bytes, JoinedHost] = {}

    def start(self, setup: EngineSetup, local: Sequence[int], remote: Sequence[Sequence[int]] = ()) -> None:
        """Start the engines of this host, and then those of other hosts as these join. remote: engines by node. Raises
        WorkerError."""
        setup = msgspec.structs.replace(setup, run=self._run, address=self.address)
        self._host.start(setup, local)
        self._engines += local
        for pidfd in self._host.pidfds:
            self._poller.register(pidfd, zmq.POLLIN)
        if remote:
            assert self._listening is not None, "hosts join where they are listened for"
            self._start_elsewhere(setup, list(remote), self._listening)

    def _start_elsewhere(self, setup: EngineSetup, nodes: list[Sequence[int]], listening: Listening) -> None:
        """Give nodes to hosts in the order in which they come. An engine here that fails meanwhile ends the wait."""
        ends_s = time.monotonic() + listening.wait_s
        setup = msgspec.structs.replace(setup, address="")
        while nodes and not self._dead and not self._has_said_why:
            if time.monotonic() > ends_s:
                raise WorkerError(
                    f"{len(nodes)} of the nodes to be run elsewhere have no host after {listening.wait_s:g} s; start "
                    f"`dualpath worker` there with the address and token of this run ({listening.address}), or see "
                    "--wait"
                )
            self._early += self._poll(1.0)
            for identity, present in list(self._candidates.items()):
                if present.offset_ns is None or not nodes:
                    continue
                del self._candidates[identity]
                if present.code != listening.code:
                    why = "it runs other sources of dualpath than the coordinator; install the same commit on both"
                    self._say(identity, Refused(why))
                    continue
                taken, nodes = nodes[: present.nodes], nodes[present.nodes :]
                engines = [engine for node in taken for engine in node]
                self.hosts[identity] = JoinedHost(present.name, engines)
                self._hear_host(identity, present)
                self._say(identity, StartEngines(setup, engines))
                self._engines += engines

    @property
    def pids(self) -> dict[int, int]:
        """Of the engines of this host."""
        return self._host.pids

    def compare_clocks(self) -> None:
        """Take what other hosts said last of their clocks as what holds for this run."""
        for host in self.hosts.values():
            host.offset_ns, host.error_ns = host.last_offset_ns, host.last_error_ns

    def clock_offset_ns(self, engine: int) -> int:
        """What an engine's clock lacks to this host's."""
        return next((host.offset_ns for host in self.hosts.values() if engine in host.engines), 0)

    def send(self, engine: int, message: ToEngine) -> None:
        try:
            self._socket.send_multipart([engine_identity(engine, self._run), msgspec.msgpack.encode(message)])
        except zmq.ZMQError as error:
            unreachable = self._unreachable(engine, error)
            if not self._has_said_why:
                raise unreachable from error

    @property
    def _has_said_why(self) -> bool:
        """An engine's failure is what will be received next."""
        return any(isinstance(message, Failed) for message in self._early)

    def _unreachable(self, engine: int, error: zmq.ZMQError) -> WorkerError:
        """It has ended, most likely, and how and why will be heard in a moment: that says more."""
        ends_s = time.monotonic() + _LAST_FROM_AFAR_S
        while not self._has_said_why and time.monotonic() < ends_s:
            self._early += self._poll(_LAST_MESSAGE_S)
            if engine in self._dead:
                ends_s = self._hear_until_s
        if engine in self._dead:
            return self._death(engine)
        return WorkerError(f"engine {engine} cannot be reached: {error}{self._host.last_words(engine)}")

    def _say(self, host: bytes, message: ToHost) -> None:
        with contextlib.suppress(zmq.ZMQError):  # it is gone: its silence will tell
            self._socket.send_multipart([host, msgspec.msgpack.encode(message)])

    def receive(self, timeout_s: float) -> list[FromEngine]:
        """Messages that have come, or come within the time. Raises WorkerError where an engine has died, after a moment
        in which its last message may still arrive: that says more than its exit status."""
        if self._early:
            early, self._early = self._early, []
            return early
        while not self._dead or time.monotonic() < self._hear_until_s:
            messages = self._poll(self._hear_until_s - time.monotonic() if self._dead else timeout_s)
            if messages or not self._dead:
                return messages
        raise self._death(next(iter(self._dead)))

    def answers(self) -> list[FromEngine]:
        """The next message of every engine, or those until one has failed. Raises WorkerError."""
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        found: list[FromEngine] = []
        while len(found) < len(self._engines) and not any(isinstance(message, Failed) for message in found):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise WorkerError(
                    f"only {len(found)} of {len(self._engines)} engines were ready within {_START_TIMEOUT_S} s; "
                    f"their logs are in {self._log_directory}"
                )
            found += self.receive(min(1.0, left_s))
        return found

    def last_messages(self, message: ToEngine) -> tuple[list[Summary], list[WorkerError]]:
        """Send `message` to every engine and collect the summaries of those that answer; why others did not."""
        summaries: list[Summary] = []
        errors: list[WorkerError] = []
        waiting: set[int] = set()
        for engine in self._engines:
            try:
                self.send(engine, message)
                waiting.add(engine)
            except WorkerError as error:
                errors.append(error)
        deadline_s = time.monotonic() + _END_TIMEOUT_S
        while waiting and time.monotonic() < deadline_s:
            early, self._early = self._early, []  # heard while it was asked why another cannot be reached
            for answer in early + self._poll(min(_LAST_MESSAGE_S, deadline_s - time.monotonic())):
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

    def _poll(self, timeout_s: float) -> list[FromEngine]:
        """Messages of engines that have come or come within the time; engines found dead join `_dead`."""
        ready = dict(self._poller.poll(math.ceil(max(0.0, timeout_s) * 1e3)))
        messages: list[FromEngine] = []
        while self._socket in ready:
            try:
                sender, *payload = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            try:
                message = self._decoder.decode(b"".join(payload))
            except msgspec.MsgspecError as error:  # of another version: it must not end a run that it has no part in
                self._say(sender, Refused(f"its message cannot be read ({error}); install the same commit on both"))
                continue
            match message:
                case Present():
                    self._hear_host(sender, message)
                case EngineEnded():
                    self._hear_end(sender, message)
                case _:
                    messages.append(message)
        for pidfd in ready:
            if pidfd in self._host.pidfds:
                self._poller.unregister(pidfd)
                engine = self._host.pidfds[pidfd]
                self._host.forget(engine)
                self._died(engine, "", _LAST_MESSAGE_S)
        self._miss_hosts()
        return messages

    def _hear_host(self, sender: bytes, present: Present) -> None:
        self._say(sender, ClockReply(self._run, present.sent_ns, time.monotonic_ns()))
        if sender not in self.hosts:
            if not present.run:  # else it serves another run, and will soon find that this is not its coordinator
                self._candidates[sender] = present
            return
        host = self.hosts[sender]
        host.heard_s = time.monotonic()
        if present.offset_ns is not None:
            host.last_offset_ns, host.last_error_ns = present.offset_ns, present.error_ns

    def _hear_end(self, sender: bytes, ended: EngineEnded) -> None:
        host = self.hosts.get(sender)
        if host is not None and ended.engine in host.engines:
            self._died(ended.engine, f"{ended.how}, on {host.name}", _LAST_FROM_AFAR_S)

    def _miss_hosts(self) -> None:
        """Hosts that have fallen silent take their engines with them."""
        now_s = time.monotonic()
        for host in self.hosts.values():
            if now_s - host.heard_s > _SILENCE_S:
                for engine in host.engines:
                    if engine not in self._dead:
                        why = f"engine {engine} is lost: {host.name} has been silent for {_SILENCE_S} s"
                        self._died(engine, why, _LAST_MESSAGE_S)

    def _died(self, engine: int, how: str, hear_s: float) -> None:
        """hear_s: how long its last message may take."""
        self._dead[engine] = how
        self._hear_until_s = time.monotonic() + hear_s

    def _death(self, engine: int) -> WorkerError:
        return WorkerError(self._dead[engine] or self._host.death(engine))

    def close(self) -> None:
        """End all engines, by force where they do not end by themselves. Idempotent."""
        self._host.close()
        self._dismiss([*self.hosts, *self._candidates])
        self._socket.close(linger=_FAREWELL_MS if self._listening else 0)
        self._context.term()

    def _dismiss(self, hosts: Iterable[bytes]) -> None:
        if not self._socket.closed:
            for identity in hosts:
                self._say(identity, Dismissed())
