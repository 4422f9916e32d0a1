"""Engines on other hosts: here each "other host" is a `dualpath worker` of its own, on loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from dualpath.cluster_file import load_cluster
from dualpath.core.errors import ClusterError, PlanError, WorkerError
from dualpath.engine import processes, remote_host
from dualpath.engine.messages import EngineSetup, Hello
from dualpath.engine.network import NixlSettings
from dualpath.engine.processes import EngineProcesses, Listening
from dualpath.engine.remote_host import Offer, RemoteHost, serve_runs
from dualpath.engine.wire import TOKEN_VARIABLE, join
from dualpath.hosts import engine_code, listening, remote_nodes
from dualpath.plan import Outcome, Plan
from dualpath.replay import replay
from dualpath.results.run import Run
from engine_setups import engine_setup
from process_tree import children

pytestmark = pytest.mark.engine
TOKEN = "a token that nobody guesses"


@pytest.fixture
def address() -> str:
    """HOST:PORT that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


class Worker:
    """A `dualpath worker`."""

    def __init__(self, address: str, logs: Path, token: str = TOKEN, wait_s: int = 30) -> None:
        program = str(Path(sys.executable).with_name("dualpath"))
        command = [program, "worker", address, "--wait", str(wait_s), "--logs", str(logs)]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, TOKEN_VARIABLE: token}
        )

    def engines(self) -> list[int]:
        """Process numbers."""
        return [engine for nursery in children(self.process.pid) for engine in children(nursery)]

    def says(self, text: str) -> str:
        """What it says until then."""
        assert self.process.stderr is not None
        said = ""
        for line in self.process.stderr:
            said += line
            if text in line:
                return said
        raise AssertionError(f"it said {said!r} and ended")

    def end(self) -> None:
        """As by Ctrl-C, which a process in the background does not hear."""
        self.process.terminate()
        self.process.communicate(timeout=30)


@pytest.fixture
def worker(address: str, tmp_path: Path) -> Iterator[Worker]:
    started = Worker(address, tmp_path / "logs")
    yield started
    if started.process.poll() is None:
        started.end()


def plan_of(trace: Path, cluster: Path, output: Path, address: str, **options: Any) -> Plan:
    chosen = {"agents": 2, "null": True, "listen": address, "remote": ("decode",), "token": TOKEN, "wait_s": 60}
    return Plan(trace=trace, cluster=cluster, arm="dualpath", output=output, **{**chosen, **options})


def run(plan: Plan, progress: Callable[[int, int], None] = lambda ended, planned: None) -> Outcome:
    return replay(plan, progress)


def test_a_host_serves_run_after_run(
    trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path, address: str, worker: Worker
) -> None:
    for number in range(2):
        output = tmp_path / str(number)
        outcome = run(plan_of(trace_file, cluster_file(decode=1), output, address))
        assert outcome.status == "ok", outcome.reasons
        (host,) = json.loads((output / "run.json").read_text())["hosts"]
        assert host["engines"] == [1]
        assert abs(host["clock_offset_ns"]) <= host["clock_error_ns"], "it is the same clock here"
    said = worker.says("run 2 is over")
    assert said.count("runs engines 1") == 2


def test_nodes_are_given_to_hosts_in_turn(
    trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path, address: str, worker: Worker
) -> None:
    other = Worker(address, tmp_path / "other")
    outcome = run(plan_of(trace_file, cluster_file(decode=2), tmp_path / "run", address))
    assert outcome.status == "ok", outcome.reasons
    hosts = json.loads((tmp_path / "run" / "run.json").read_text())["hosts"]
    assert sorted(host["engines"] for host in hosts) == [[1], [2]]
    other.end()


def test_without_the_token_nobody_joins(
    trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path, address: str
) -> None:
    stranger = Worker(address, tmp_path / "logs", token="another token, as long as it", wait_s=2)
    outcome = run(plan_of(trace_file, cluster_file(), tmp_path / "run", address, wait_s=5))
    assert outcome.status == "void"
    assert "have no host after 5 s; start `dualpath worker`" in outcome.reasons[0]
    assert stranger.process.wait(30) == 3
    assert "no coordinator with this token wanted this host within 2 s" in (stranger.process.communicate()[1])


def test_other_sources_are_refused(
    trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path, address: str
) -> None:
    refused: list[BaseException] = []

    def serve() -> None:
        try:
            serve_runs(Offer(f"tcp://{address}", TOKEN, "other sources", 1, str, fits), tmp_path, 30, lambda line: None)
        except WorkerError as error:
            refused.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    outcome = run(plan_of(trace_file, cluster_file(), tmp_path / "run", address, wait_s=5))
    thread.join()
    assert outcome.status == "void"
    assert "install the same commit on both" in str(refused[0])


def test_an_engine_killed_elsewhere_ends_the_run_and_is_named(
    trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path, address: str, worker: Worker
) -> None:
    def kill_once(ended: int, planned: int) -> None:
        for pid in worker.engines()[:1]:
            os.kill(pid, signal.SIGKILL)

    outcome = run(plan_of(trace_file, cluster_file(), tmp_path / "run", address), kill_once)
    assert outcome.status == "void"
    assert "engine 1 (pid" in outcome.reasons[0]
    assert f"was killed by SIGKILL, on {socket.gethostname()}" in outcome.reasons[0]


def test_a_host_that_falls_silent_is_lost_with_its_engines(
    trace_file: Path,
    cluster_file: Callable[..., Path],
    tmp_path: Path,
    address: str,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "_SILENCE_S", 3)

    stopped: list[int] = []

    def stop(ended: int, planned: int) -> None:
        stopped.extend(set(worker.engines()) - set(stopped))
        for pid in (worker.process.pid, *stopped):
            os.kill(pid, signal.SIGSTOP)

    outcome = run(plan_of(trace_file, cluster_file(), tmp_path / "run", address), stop)
    for pid in (worker.process.pid, *stopped):
        os.kill(pid, signal.SIGKILL)
    assert outcome.status == "void"
    assert "has been silent for 3 s" in outcome.reasons[0]


def test_a_coordinator_that_falls_silent_leaves_no_engine_behind(
    cluster_file: Callable[..., Path], tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_host, "_SILENCE_S", 2.0)
    cluster = load_cluster(cluster_file()).cluster
    coordinator = EngineProcesses(tmp_path, Listening(f"tcp://{address}", TOKEN, "code", 30))
    said: list[str] = []
    with RemoteHost(Offer(f"tcp://{address}", TOKEN, "code", 1, str, fits), tmp_path) as host:

        def serve() -> None:
            try:
                host.serve(30, said.append)
            except WorkerError as error:
                said.append(str(error))

        thread = threading.Thread(target=serve)
        thread.start()
        coordinator.start(engine_setup(cluster), [0], [[1]])
        assert {each.engine for each in coordinator.answers() if isinstance(each, Hello)} == {0, 1}
        thread.join(30)  # the coordinator listens no more
        assert "the coordinator has been silent for 2 s" in said[-1]
        (pid,) = host.pids.values()
    assert not Path(f"/proc/{pid}").exists()
    coordinator.close()


def fits(setup: EngineSetup, engines: list[int]) -> None:
    """This host can hold them."""


def test_a_coordinator_that_comes_after_one_that_was_killed_gets_engines_of_its_own(
    trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path, address: str, worker: Worker
) -> None:
    """The first is gone without a word, at the same address the next one comes at once."""
    script = (
        "import os, sys, pathlib\n"
        "from dualpath.plan import Plan\n"
        "from dualpath.replay import replay\n"
        f"plan = Plan(trace=pathlib.Path({str(trace_file)!r}), cluster=pathlib.Path({str(cluster_file())!r}), "
        f"arm='dualpath', output=pathlib.Path({str(tmp_path / 'killed')!r}), agents=2, null=True, listen={address!r}, "
        f"remote=('decode',), token={TOKEN!r}, wait_s=60)\n"
        "replay(plan, lambda ended, planned: os.kill(os.getpid(), 9))\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    outcome = run(plan_of(trace_file, cluster_file(), tmp_path / "run", address))
    assert outcome.status == "ok", outcome.reasons
    assert "another coordinator answers there" in worker.says("its engines are ended")


def test_a_host_that_cannot_hold_the_engines_says_why(
    trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path, address: str
) -> None:
    def too_small(setup: EngineSetup, engines: list[int]) -> None:
        raise ClusterError("this machine has 1 GiB free")

    def serve() -> None:
        serve_runs(Offer(f"tcp://{address}", TOKEN, engine_code(), 1, str, too_small), tmp_path, 2, lambda line: None)

    thread = threading.Thread(target=serve)
    thread.start()
    outcome = run(plan_of(trace_file, cluster_file(), tmp_path / "run", address))
    thread.join()
    assert outcome.status == "void"
    assert "engine 1 cannot be started: this machine has 1 GiB free" in outcome.reasons[0]


def test_a_message_that_cannot_be_read_is_refused_and_the_run_goes_on(
    trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path, address: str, worker: Worker
) -> None:
    """A holder of the token with another version."""
    context = zmq.Context[zmq.Socket[bytes]]()
    other = join(context, f"tcp://{address}", TOKEN, b"host-other")
    other.send(msgspec.msgpack.encode({"type": "Present", "surprise": 1}))
    outcome = run(plan_of(trace_file, cluster_file(), tmp_path / "run", address))
    assert outcome.status == "ok", outcome.reasons
    assert b"install the same commit on both" in other.recv()
    other.close(linger=0)
    context.term()


@pytest.mark.parametrize(
    ("options", "cnic", "message"),
    [
        ({"remote": ("7",)}, "native", "--remote '7' is neither prefill, decode nor the number of a node"),
        ({"listen": None}, "native", "--remote needs --listen HOST:PORT"),
        ({"null": False}, "native", "--remote needs --transport verbs or nixl"),
        ({}, "1GB/s", '--remote needs cnic = "native"'),
        ({"remote": ()}, "native", "say with --remote which nodes"),
        ({"token": "short"}, "native", "DUALPATH_TOKEN has 5 characters, 5 different ones; it takes at least 16"),
        ({"listen": "nowhere"}, "native", "'nowhere' is not HOST:PORT"),
    ],
)
def test_what_cannot_be_is_said_at_once(
    cluster_file: Callable[..., Path], tmp_path: Path, options: dict[str, Any], cnic: str, message: str
) -> None:
    plan = plan_of(tmp_path / "trace", cluster_file(cnic=cnic), tmp_path / "run", "127.0.0.1:7000", **options)

    def check() -> None:
        remote_nodes(plan, load_cluster(plan.cluster).cluster)
        listening(plan)

    with pytest.raises(PlanError) as found:
        check()
    assert message in str(found.value)


@pytest.mark.nixl
def test_a_replay_over_nixl_with_the_decode_side_elsewhere(
    trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path, address: str, worker: Worker
) -> None:
    options = {"null": False, "deterministic": True, "verify": True}
    here = run(plan_of(trace_file, cluster_file(), tmp_path / "here", address, **options, listen=None, remote=()))
    assert here.status == "ok", here.reasons
    there = run(plan_of(trace_file, cluster_file(), tmp_path / "there", address, **options, network=NixlSettings()))
    assert there.status == "ok", there.reasons
    assert hashes(tmp_path / "there") == hashes(tmp_path / "here")


def hashes(directory: Path) -> list[tuple[Any, ...]]:
    turns = Run.load(directory).turns.select("trajectory", "turn", "output_hash").collect()
    return sorted(turns.rows())
