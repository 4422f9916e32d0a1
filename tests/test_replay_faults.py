"""Corruption, full disks, killed processes, Ctrl-C in the middle of a run: rows stay, nothing else does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from dualpath.cluster_file import load_cluster
from dualpath.engine.geometry import store_layout
from dualpath.engine.store import scan
from dualpath.replay import Outcome, Plan, replay
from dualpath.results.run import Run
from dualpath.trace.reader import TraceFile
from dualpath.trace.select import select
from dualpath.trace.tokens import TokenStream
from process_tree import children

pytestmark = pytest.mark.engine


def _run(trace: Path, cluster: Path, output: Path, arm: str, **options: Any) -> Outcome:
    watch = options.pop("watch", lambda ended, planned: None)
    return replay(Plan(trace=trace, cluster=cluster, arm=arm, output=output, agents=4, **options), watch)


def _engines() -> list[int]:
    return [engine for child in children(os.getpid(), "python") for engine in children(child, "engine-")]


@pytest.mark.parametrize(
    ("arm", "block", "path"),
    [
        ("basic", 0, "prefill route, prefill engine 0"),
        ("layerwise", 0, "prefill route, prefill engine 0"),
        ("dualpath", 0, "decode route, decode engine 1"),
        ("split", 0, "prefill route, prefill engine 0"),
        ("split", -1, "decode route, decode engine 1"),
    ],
)
def test_one_flipped_bit_in_storage_ends_the_run_and_is_named(
    arm: str, block: int, path: str, trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    """The same trace again on a kept store, of which one block of the first prompt is corrupted."""
    cluster, store = cluster_file(), tmp_path / "store"
    assert _run(trace_file, cluster, tmp_path / "first", arm, store=store).status == "ok"
    layout = store_layout(load_cluster(cluster).cluster)
    with TraceFile.open(trace_file) as trace:
        first = next(select(trace, 1, 0))[0]
    hits = (first.turns[0].append_tokens - 1) // 16
    key = TokenStream(first, seed=0, vocab=128).keys(0, 16)[:hits][block]
    location = scan(store, layout)[key]
    segment = store / f"{location.segment}.seg"
    with segment.open("r+b") as file:
        file.seek(location.offset + 1000)
        byte = file.read(1)
        file.seek(location.offset + 1000)
        file.write(bytes([byte[0] ^ 4]))
    outcome = _run(trace_file, cluster, tmp_path / "second", arm, store=store)
    assert outcome.status == "void"
    (reason,) = outcome.reasons
    for part in ("CorruptBlockError", key.hex(), str(segment), path):
        assert part in reason
    assert Run.load(tmp_path / "second").void
    assert not _engines()


def test_a_disk_that_fills_up_voids_the_run_and_the_rows_are_kept(
    trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    """Run and store on one small disk, which somebody else fills while the run goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8M", "none", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small tmpfs: {mounted.stderr.decode().strip()}")
    try:

        def fill(ended: int, planned: int) -> None:
            if ended == 2:
                with contextlib.suppress(OSError), (disk / "filler").open("wb") as file:
                    while True:
                        file.write(bytes(4096))

        outcome = _run(trace_file, cluster_file(snic="4MB/s"), disk / "run", "dualpath", watch=fill)
        assert outcome.status == "void"
        assert "StoreError" in outcome.reasons[0]
        assert "the disk is full: free space, or choose another storage directory" in outcome.reasons[0]
        turns = Run.load(disk / "run").turns.collect()
        assert turns.filter(pl.col("status") == "ok").height >= 2
        assert not (disk / "run" / "store").exists()
    finally:
        subprocess.run(["umount", disk], check=True)
    assert not _engines()


@pytest.mark.parametrize("at", ["engine", "storage"])
def test_no_process_outlives_a_run(
    at: str, trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    """Whichever is killed, what read storage for the engines goes with them, and the run is void."""
    left: list[int] = []
    killed: list[int] = []

    def kill_one(ended: int, planned: int) -> None:
        if ended == 2:
            storage = [child for engine in _engines() for child in children(engine, "storage-")]
            assert len(storage) == 2
            left.extend(os.pidfd_open(pid) for pid in [*_engines(), *storage])
            killed.append(min(_engines() if at == "engine" else storage))
            os.kill(killed[0], signal.SIGKILL)

    outcome = _run(trace_file, cluster_file(snic="4MB/s"), tmp_path / "run", "dualpath", watch=kill_one)
    assert outcome.status == "void"
    assert f"(pid {killed[0]}) was killed by" in outcome.reasons[0]
    if at == "storage":
        assert "the storage process of engine" in outcome.reasons[0]
    for pidfd in left:
        assert wait([pidfd], 30), "a process of the run lives on"
        os.close(pidfd)


def test_a_killed_engine_voids_the_run_and_what_was_recorded_stays(
    trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    victims: list[int] = []

    def kill_one(ended: int, planned: int) -> None:
        if ended == 2:
            victims.append(min(_engines()))
            os.kill(victims[0], signal.SIGKILL)

    outcome = _run(trace_file, cluster_file(snic="4MB/s"), tmp_path / "run", "dualpath", watch=kill_one)
    assert outcome.status == "void"
    assert f"(pid {victims[0]}) was killed by SIGKILL" in outcome.reasons[0]
    turns = Run.load(tmp_path / "run").turns.collect()
    assert turns.filter(pl.col("status") == "ok").height >= 2
    assert turns.filter(pl.col("status") == "unfinished").height > 0
    assert not _engines()


def test_ctrl_c_keeps_the_part_and_leaves_nothing_behind(
    trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    def interrupt(ended: int, planned: int) -> None:
        if ended == 2:
            os.kill(os.getpid(), signal.SIGINT)

    outcome = _run(trace_file, cluster_file(snic="4MB/s"), tmp_path / "run", "layerwise", watch=interrupt)
    assert outcome.status == "void"
    assert outcome.reasons == ("interrupted (Ctrl-C)",)
    assert Run.load(tmp_path / "run").turns.collect().height >= 2
    assert not (tmp_path / "run" / "store").exists()
    assert not _engines()


def test_an_engine_refuses_to_outlive_its_coordinator(
    trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    child = os.fork()
    if child == 0:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

        def die(ended: int, planned: int) -> None:
            (tmp_path / "pids").write_text(" ".join(map(str, _engines())))
            os.kill(os.getpid(), signal.SIGKILL)

        _run(trace_file, cluster_file(snic="4MB/s"), tmp_path / "run", "layerwise", watch=die)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        assert wait([pidfd], 30), f"engine {pid} is still there"
        os.close(pidfd)
