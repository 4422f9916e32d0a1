"""A host that lends itself to a coordinator elsewhere: joins it, runs the engines it is given, tells of their deaths.

    Joining -> Present, again and again -> StartEngines -> Host -> engines, which speak with the coordinator themselves
            <- ClockReply                                       -> EngineEnded
                                           Dismissed, or silence: all engines are ended

Not aware of what an engine does.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import socket as sockets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import zmq

from dualpath.core.errors import DualpathError, WorkerError
from dualpath.engine.host import Host
from dualpath.engine.messages import (
    ClockReply,
    Dismissed,
    EngineEnded,
    EngineSetup,
    Present,
    Refused,
    StartEngines,
    ToHost,
)
from dualpath.engine.nursery import nursery
from dualpath.engine.wire import Socket, join

_PRESENT_S = 1.0  # between two signs of life,
_FIRST_S = 0.05  # and while the clocks are being compared
_CLOCK_SAMPLES = 16
_LATE_NS = 500_000_000  # an answer that took so long was to a question asked before anybody was there
_MOST_UNSENT = 4
_SILENCE_S = 20.0  # of a coordinator that is taken for gone


class Clock:
    """How this host's clock stands to the coordinator's: of the last questions, the one answered soonest."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, int]] = deque(maxlen=_CLOCK_SAMPLES)  # (half the round trip, offset)

    def answered(self, sent_ns: int, now_ns: int, heard_ns: int) -> None:
        if heard_ns - sent_ns < _LATE_NS:
            self._samples.append(((heard_ns - sent_ns) // 2, now_ns - (sent_ns + heard_ns) // 2))

    @property
    def is_known(self) -> bool:
        return len(self._samples) == _CLOCK_SAMPLES

    @property
    def best(self) -> tuple[int, int]:
        """(largest error, offset), ns."""
        return min(self._samples)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a host lends, to whom, on which terms."""

    address: str  # of the coordinator
    token: str
    code: str  # digest of the sources it runs
    nodes: int  # at most
    place: Callable[[str], str]  # what a path of the coordinator's host is here
    check: Callable[[EngineSetup, list[int]], None]  # raises DualpathError where this host cannot hold the engines


class RemoteHost:
    """One run's service. directory: for engines' logs."""

    def __init__(self, offer: Offer, directory: Path) -> None:
        nursery("worker").wait()  # who is joined is to be heard every second from then on
        self._offer = offer
        self._run = ""  # whose engines it runs
        identity = f"host-{secrets.token_hex(8)}".encode()
        self._context = zmq.Context[Socket](io_threads=1)
        self._socket = join(self._context, offer.address, offer.token, identity, _MOST_UNSENT)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._decoder = msgspec.msgpack.Decoder(ToHost)
        self._host = Host(directory, offer.token)
        self._clock = Clock()
        self._heard_s = time.monotonic()
        self._present_s = 0.0  # when to say so again
        self.engines: list[int] = []

    def serve(self, wait_s: float, say: Callable[[str], None]) -> Literal["served", "dismissed", "nobody"]:
        """Until the run is over, or nobody has answered for wait_s. Raises WorkerError where the coordinator refuses,
        or is gone in the middle."""
        while True:
            if time.monotonic() >= self._present_s:
                self._say_present()
            ready = dict(self._poller.poll(math.ceil(max(0.0, self._present_s - time.monotonic()) * 1e3)))
            for pidfd in set(ready) & set(self._host.pidfds):
                self._tell_death(pidfd)
            if self._socket in ready:
                match self._decoder.decode(self._socket.recv()):
                    case ClockReply() as reply:
                        self._refuse_another(reply.run)
                        self._heard_s = time.monotonic()
                        self._clock.answered(reply.sent_ns, reply.now_ns, time.monotonic_ns())
                    case StartEngines() as message:
                        self._refuse_another(message.setup.run)
                        say(f"runs engines {', '.join(map(str, message.engines))}")
                        self._start(message)
                    case Refused(why=why):
                        raise WorkerError(f"{self._offer.address}: refused: {why}")
                    case Dismissed():
                        return "served" if self.engines else "dismissed"
            silent_s = time.monotonic() - self._heard_s
            if self.engines and silent_s > _SILENCE_S:
                raise WorkerError(f"{self._offer.address}: the coordinator has been silent for {_SILENCE_S:g} s")
            if not self.engines and silent_s > wait_s:
                return "nobody"

    def _refuse_another(self, run: str) -> None:
        if self.engines and run != self._run:
            raise WorkerError(f"{self._offer.address}: another coordinator answers there; this run's is gone")

    def _say_present(self) -> None:
        known = self._clock.is_known
        error_ns, offset_ns = self._clock.best if known else (0, None)
        name = sockets.gethostname()
        message = Present(
            name, self._offer.code, self._offer.nodes, self._run, time.monotonic_ns(), offset_ns, error_ns
        )
        self._say(message)
        self._present_s = time.monotonic() + (_PRESENT_S if known else _FIRST_S)

    def _start(self, message: StartEngines) -> None:
        store = self._offer.place(message.setup.store_directory)
        setup = msgspec.structs.replace(message.setup, address=self._offer.address, store_directory=store)
        self.engines, self._run = message.engines, setup.run
        try:
            self._offer.check(setup, message.engines)
            self._host.start(setup, message.engines)
        except (DualpathError, OSError) as error:
            for engine in message.engines:
                self._say(EngineEnded(engine, f"engine {engine} cannot be started: {error}"))
        for pidfd in self._host.pidfds:
            self._poller.register(pidfd, zmq.POLLIN)

    def _say(self, message: Present | EngineEnded) -> None:
        """If there is room: where nobody listens, little is kept for who comes."""
        with contextlib.suppress(zmq.Again):
            self._socket.send(msgspec.msgpack.encode(message), zmq.NOBLOCK)

    def _tell_death(self, pidfd: int) -> None:
        self._poller.unregister(pidfd)
        engine = self._host.pidfds[pidfd]
        self._host.forget(engine)
        self._say(EngineEnded(engine, self._host.death(engine)))

    @property
    def pids(self) -> dict[int, int]:
        """Of the engines it runs."""
        return self._host.pids

    def close(self) -> None:
        """Ends what still runs. Idempotent."""
        self._host.close()
        self._socket.close(linger=0)
        self._context.term()

    def __enter__(self) -> RemoteHost:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve_runs(offer: Offer, directory: Path, wait_s: float, say: Callable[[str], None]) -> int:
    """Serve one run after the other, until no coordinator has come for wait_s. Returns how many were served. Raises
    WorkerError where the coordinator refuses."""
    served = 0
    while True:
        logs = directory / f"run-{served + 1}"
        logs.mkdir(parents=True, exist_ok=True)
        with RemoteHost(offer, logs) as host:
            try:
                outcome = host.serve(wait_s, say)
            except WorkerError as error:
                if not host.engines:
                    raise
                say(f"{error}; its engines are ended")
                outcome = "served"
        if outcome == "nobody":
            return served
        if outcome == "served":
            served += 1
            say(f"run {served} is over; logs of its engines are in {logs}")
