"""Engine processes: who is heard, and how a death is told."""

from __future__ import annotations

import os
import select as readiness
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq
from dualpath.core.errors import WorkerError
from dualpath.engine.messages import (
    BlocksRead,
    EngineSetup,
    Hello,
    ReadBlocks,
    Shutdown,
    StartClock,
    Summary,
    ToCoordinator,
)
from dualpath.engine.processes import EngineProcesses

pytestmark = pytest.mark.engine


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[EngineProcesses]:
    """Two null engines, ready."""
    processes = EngineProcesses(tmp_path)
    memory = os.memfd_create("test")
    for engine in range(2):
        setup = EngineSetup(
            engine=engine,
            address=processes.address,
            parent_pid=os.getpid(),
            seed=0,
            layerwise=True,
            moves_kv=True,
            deterministic=False,
            verify=False,
            null=True,
            store_directory="",
            durable="process",
            rdma=None,
            pacer_fd=memory,
            buffer_fds=[],
            cluster=b"",
        )
        processes.start(setup)
    try:
        assert {message.engine for message in processes.answers() if isinstance(message, Hello)} == {0, 1}
        for engine in range(2):
            processes.send(engine, StartClock(0))
        yield processes
    finally:
        processes.close()
        os.close(memory)


def kill(processes: EngineProcesses, engine: int) -> None:
    """SIGKILL, and wait until the process is gone."""
    pidfd = os.pidfd_open(processes.pids[engine])
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert readiness.select([pidfd], [], [], 30)[0]
    os.close(pidfd)


def test_a_death_is_told_although_others_keep_talking(processes: EngineProcesses) -> None:
    kill(processes, 1)
    heard: list[ToCoordinator] = []

    def talk() -> None:
        for request in range(100_000):  # some ten seconds of talk
            processes.send(0, ReadBlocks(request, 0, [], [], 0, 1))
            heard.extend(processes.receive(1.0))

    with pytest.raises(WorkerError, match=r"engine 1 \(pid \d+\) was killed by SIGKILL"):
        talk()
    assert heard, "engine 0 did keep talking"


def test_what_the_living_had_counted_is_not_lost_with_the_dead(processes: EngineProcesses) -> None:
    kill(processes, 0)
    summaries, errors = processes.last_messages(Shutdown())
    assert [summary.engine for summary in summaries if isinstance(summary, Summary)] == [1]
    assert len(errors) == 1
    assert "engine 0" in str(errors[0])


def test_strangers_are_not_heard(processes: EngineProcesses) -> None:
    """Another process of this host connects: as nobody, and as engine 0 without the run's token."""
    context = zmq.Context[zmq.Socket[bytes]]()
    for name in (b"stranger", b"0", b"0-" + b"0" * 32):
        socket = context.socket(zmq.DEALER)
        socket.identity = name
        socket.connect(processes.address)
        socket.send(b"\x80\x04not msgpack")
        socket.send(msgspec.msgpack.encode(BlocksRead(0, 99, 0)))
        socket.close(linger=5_000)
    context.term()  # returns when everything has been sent
    processes.send(0, ReadBlocks(7, 0, [], [], 0, 1))
    heard = processes.receive(10.0)
    while not heard:
        heard = processes.receive(10.0)
    assert [message.request for message in heard if isinstance(message, BlocksRead)] == [7]
