"""Engine processes: who is heard, and how a death is told."""

from __future__ import annotations

import contextlib
import os
import select as readiness
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import zmq
from dualpath.cluster_file import load_cluster
from dualpath.core.errors import WorkerError
from dualpath.engine.messages import (
    BlocksRead,
    Failed,
    FromEngine,
    Hello,
    ReadBlocks,
    Shutdown,
    StartClock,
    Summary,
)
from dualpath.engine.processes import EngineProcesses
from dualpath.engine.wire import engine_identity, join
from engine_setups import engine_setup

pytestmark = pytest.mark.engine


@pytest.fixture
def processes(tmp_path: Path, cluster_file: Callable[..., Path]) -> Iterator[EngineProcesses]:
    """Two null engines, ready."""
    processes = EngineProcesses(tmp_path)
    try:
        processes.start(engine_setup(load_cluster(cluster_file()).cluster), [0, 1])
        assert {message.engine for message in processes.answers() if isinstance(message, Hello)} == {0, 1}
        for engine in range(2):
            processes.send(engine, StartClock(0))
        yield processes
    finally:
        processes.close()


def kill(processes: EngineProcesses, engine: int) -> None:
    """SIGKILL, and wait until the process is gone."""
    pidfd = os.pidfd_open(processes.pids[engine])
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert readiness.select([pidfd], [], [], 30)[0]
    os.close(pidfd)


def test_a_death_is_told_although_others_keep_talking(processes: EngineProcesses) -> None:
    kill(processes, 1)
    heard: list[FromEngine] = []

    def talk() -> None:
        for request in range(100_000):  # some ten seconds of talk
            processes.send(0, ReadBlocks(request, 0, [], [], 0, 1))
            heard.extend(processes.receive(1.0))

    with pytest.raises(WorkerError, match=r"engine 1 \(pid \d+\) was killed by SIGKILL"):
        talk()
    assert heard, "engine 0 did keep talking"


def test_who_reads_nothing_and_then_dies_keeps_nobody_waiting(processes: EngineProcesses) -> None:
    """More than the kernel and a queue of ZeroMQ's usual length hold."""
    os.kill(processes.pids[1], signal.SIGSTOP)
    message = ReadBlocks(0, 0, [], list(range(8_000)), 0, 1)
    sender = threading.Thread(target=lambda: [processes.send(1, message) for _ in range(3_000)], daemon=True)
    sender.start()
    sender.join(60)
    assert not sender.is_alive()
    kill(processes, 1)
    with pytest.raises(WorkerError, match=r"engine 1 \(pid \d+\) was killed by SIGKILL"):
        processes.receive(10)


@pytest.mark.parametrize("dead", [0, 1])
def test_what_the_living_had_counted_is_not_lost_with_the_dead(processes: EngineProcesses, dead: int) -> None:
    kill(processes, dead)
    summaries, errors = processes.last_messages(Shutdown())
    assert [summary.engine for summary in summaries if isinstance(summary, Summary)] == [1 - dead]
    assert len(errors) == 1
    assert f"engine {dead}" in str(errors[0])


def test_what_comes_while_an_engine_cannot_be_reached_is_kept(
    processes: EngineProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The living engine has answered, and ended, while it is asked why the dead one cannot be reached."""
    kill(processes, 1)
    with contextlib.suppress(zmq.ZMQError):
        for _ in range(1_000_000):  # until the socket knows
            processes._socket.send_multipart([engine_identity(1, processes._run), b""])
    living, ask = os.pidfd_open(processes.pids[0]), processes._unreachable

    def ask_later(engine: int, error: zmq.ZMQError) -> WorkerError:
        assert readiness.select([living], [], [], 30)[0]
        return ask(engine, error)

    monkeypatch.setattr(processes, "_unreachable", ask_later)
    summaries, errors = processes.last_messages(Shutdown())
    os.close(living)
    assert [summary.engine for summary in summaries] == [0]
    assert "engine 1" in str(errors[0])


def test_why_an_engine_ended_is_heard_although_it_can_no_longer_be_reached(processes: EngineProcesses) -> None:
    ended = os.pidfd_open(processes.pids[0])
    processes._socket.send_multipart([engine_identity(0, processes._run), b"no message"])
    assert readiness.select([ended], [], [], 30)[0]
    os.close(ended)
    while not processes._early:  # until the socket knows
        processes.send(0, ReadBlocks(0, 0, [], [], 0, 1))
    (failed,) = (message for message in processes.receive(10) if isinstance(message, Failed))
    assert (failed.engine, failed.kind) == (0, "ValidationError")


@pytest.mark.parametrize("token", [None, "0" * 32])
def test_who_does_not_know_the_token_is_not_heard(processes: EngineProcesses, token: str | None) -> None:
    """Another process of this host connects under the names of engines: in the clear, or with a token of its own."""
    context = zmq.Context[zmq.Socket[bytes]]()
    strangers = []
    for name in (b"stranger", b"engine-0", b"host-0"):
        socket = context.socket(zmq.DEALER) if token is None else join(context, processes.address, token, name)
        events = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_DISCONNECTED)
        if token is None:  # only now: who speaks in the clear is turned away once, the others again and again
            socket.identity = name
            socket.connect(processes.address)
        socket.send(b"\x80\x04not msgpack")
        socket.send(msgspec.msgpack.encode(BlocksRead(0, 99, 0)))
        strangers.append((socket, events))
    for socket, events in strangers:
        assert events.poll(10_000), "it was turned away"
        socket.disable_monitor()
        events.close()
        socket.close(linger=0)
    context.term()
    processes.send(0, ReadBlocks(7, 0, [], [], 0, 1))
    heard = processes.receive(10.0)
    while not heard:
        heard = processes.receive(10.0)
    assert [message.request for message in heard if isinstance(message, BlocksRead)] == [7]
