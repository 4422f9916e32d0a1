"""Where engines come from: real processes, forked, ended, left alone."""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from dualpath.cluster_file import load_cluster
from dualpath.core.errors import WorkerError
from dualpath.engine.data_path import link_rates
from dualpath.engine.geometry import buffer_bytes, store_layout
from dualpath.engine.messages import EngineSetup
from dualpath.engine.nursery import Child, Nursery, nursery
from dualpath.engine.pacer import Pacer
from dualpath.engine.store import create_store
from engine_setups import engine_setup

pytestmark = pytest.mark.engine
WHO_FORKS_AND_DIES = """
import os, signal, sys
import msgspec
from pathlib import Path
from dualpath.engine.data_path import link_rates
from dualpath.engine.geometry import buffer_bytes, store_layout
from dualpath.engine.messages import EngineSetup
from dualpath.engine.nursery import Nursery
setup = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=EngineSetup)
child = Nursery("null_engine").fork(setup, dict(os.environb), Path(os.devnull))
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def setup(cluster_file: Callable[..., Path]) -> Iterator[EngineSetup]:
    """Of a null engine whose coordinator never answers."""
    fd = os.memfd_create("pacer")
    cluster = load_cluster(cluster_file()).cluster
    yield engine_setup(cluster, engine=1, address="tcp://127.0.0.1:1", pacer_fd=fd)
    os.close(fd)


@pytest.fixture
def null_engines() -> Iterator[Nursery]:
    started = Nursery("null_engine")
    yield started
    started.close()


def forked(by: Nursery, setup: EngineSetup, log: Path) -> Child:
    return by.fork(setup, {**os.environb, b"DUALPATH_TOKEN": b"0123456789abcdef"}, log)


def test_how_each_engine_ended_is_known_in_any_order(null_engines: Nursery, setup: EngineSetup, tmp_path: Path) -> None:
    children = [forked(null_engines, setup, tmp_path / f"{number}.log") for number in range(3)]
    assert len({child.pid for child in children}) == 3
    for child, number in zip(children, (signal.SIGKILL, signal.SIGTERM, signal.SIGABRT), strict=True):
        assert not child.has_ended()
        child.send_signal(number)
        assert child.has_ended(30)
        child.send_signal(signal.SIGKILL)  # to nobody
    assert [null_engines.status(child.pid) for child in reversed(children)] == [-6, -15, -9]
    assert null_engines.status(children[0].pid) == -9, "as often as one asks"
    for child in children:
        assert not Path(f"/proc/{child.pid}").exists()
        os.close(child.pidfd)


def test_an_engine_has_its_own_name_log_environment_and_files(
    null_engines: Nursery, setup: EngineSetup, tmp_path: Path
) -> None:
    """It ends at once where it has no token; a failure is the last thing in its log."""
    child = null_engines.fork(setup, {b"ONLY": b"\xff"}, tmp_path / "engine.log")
    assert child.has_ended(30)
    assert null_engines.status(child.pid) == 1
    assert "KeyError: 'DUALPATH_TOKEN'" in (tmp_path / "engine.log").read_text().splitlines()[-1]
    os.close(child.pidfd)
    living = forked(null_engines, setup, tmp_path / "living.log")
    place = Path(f"/proc/{living.pid}")
    poll = select.poll()
    poll.register(living.pidfd, select.POLLIN)
    while (place / "comm").read_text() != "engine-1\n":  # it is a moment old
        assert not poll.poll(1), "it has ended"
    targets = [str(fd.readlink()) for fd in (place / "fd").iterdir()]
    assert sum("memfd:pacer" in target for target in targets) == 1
    assert str(tmp_path / "living.log") in targets
    living.send_signal(signal.SIGKILL)
    os.close(living.pidfd)


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"])
def test_threads_that_the_user_wants_are_not_started_before_the_fork(
    name: str, setup: EngineSetup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "4")
    started = Nursery("null_engine")
    child = forked(started, setup, tmp_path / "engine.log")
    assert not child.has_ended()
    started.close()
    assert child.has_ended(30)
    os.close(child.pidfd)


def test_what_fails_before_it_can_say_so_leaves_nothing_behind(
    setup: EngineSetup, tmp_path: Path, cluster_file: Callable[..., Path]
) -> None:
    """An engine with a model has a process for its reads by then, which waits for it, as it would for that."""
    cluster = load_cluster(cluster_file()).cluster
    buffer_fd = os.memfd_create("buffer")
    os.ftruncate(buffer_fd, buffer_bytes(cluster, 0))
    create_store(tmp_path / "store", store_layout(cluster))
    pacer = Pacer.create(link_rates(cluster))
    fds = {"pacer_fd": pacer.fileno(), "buffer_fds": [buffer_fd, -1]}
    real = engine_setup(cluster, engine=0, null=False, store_directory=str(tmp_path / "store"), **fds)
    engines = nursery("worker")
    child = engines.fork(real, {}, tmp_path / "engine.log")
    assert child.has_ended(60)
    assert engines.status(child.pid) == 1
    assert "KeyError: 'DUALPATH_TOKEN'" in (tmp_path / "engine.log").read_text()
    os.close(child.pidfd)
    os.close(buffer_fd)
    pacer.close()


def test_where_nothing_more_can_be_started_it_is_said_and_others_live(
    null_engines: Nursery, setup: EngineSetup, tmp_path: Path
) -> None:
    living = forked(null_engines, setup, tmp_path / "living.log")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    num_open = len(list(Path(f"/proc/{null_engines.pid}/fd").iterdir()))
    resource.prlimit(null_engines.pid, resource.RLIMIT_NOFILE, (num_open + 1, hard))
    with pytest.raises(WorkerError, match="no engine can be forked: "):
        forked(null_engines, setup, tmp_path / "engine.log")
    resource.prlimit(null_engines.pid, resource.RLIMIT_NOFILE, (hard, hard))
    another = forked(null_engines, setup, tmp_path / "another.log")
    for child in (living, another):
        assert not child.has_ended()
        child.send_signal(signal.SIGKILL)
        os.close(child.pidfd)


def test_engines_end_when_the_nursery_has(setup: EngineSetup, tmp_path: Path) -> None:
    killed = Nursery("null_engine")
    child = forked(killed, setup, tmp_path / "engine.log")
    os.kill(killed.pid, signal.SIGKILL)
    assert child.has_ended(30)
    assert killed.status(child.pid) is None, "nobody knows"
    assert not killed.is_usable
    with pytest.raises(WorkerError, match=f"what starts engines \\(pid {killed.pid}\\) gives no answer"):
        forked(killed, setup, tmp_path / "engine.log")
    os.close(child.pidfd)
    killed.close()
    killed.close()


def test_engines_end_when_who_asked_for_them_is_killed(setup: EngineSetup) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WHO_FORKS_AND_DIES],
        input=msgspec.msgpack.encode(setup),
        env={**os.environ, "DUALPATH_TOKEN": "0123456789abcdef"},
        pass_fds=[setup.pacer_fd],
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    try:
        pidfd = os.pidfd_open(int(done.stdout))
    except ProcessLookupError:
        return
    assert select.select([pidfd], [], [], 30)[0]
    os.close(pidfd)


def test_there_is_one_for_each_program_and_a_new_one_where_it_has_ended() -> None:
    first = nursery("null_engine")
    assert nursery("null_engine") is first
    assert nursery("stub_engine") is not first
    first.close()
    assert nursery("null_engine") is not first
    assert nursery("null_engine").is_usable


def test_a_program_that_cannot_be_imported_is_an_error(
    setup: EngineSetup, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = Nursery("no_such_engine")  # type: ignore[arg-type]
    with pytest.raises(WorkerError, match="what starts engines"):
        forked(broken, setup, tmp_path / "engine.log")
    broken.close()
    assert "No module named 'dualpath.engine.no_such_engine'" in capfd.readouterr().err
