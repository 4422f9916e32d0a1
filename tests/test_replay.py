"""Real engine processes, real files: every arm computes the same, moves what the table says, and fails in the open."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import select as readiness
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
import torch
import xxhash
from dualpath.cluster_file import load_cluster
from dualpath.core import commands as core_commands
from dualpath.core import events as core_events
from dualpath.core.arms import ARMS
from dualpath.core.errors import RunError, StoreError
from dualpath.core.scheduler import Scheduler
from dualpath.engine.direct_io import aligned_buffer
from dualpath.engine.exact import recompute
from dualpath.engine.geometry import BlockGeometry, store_layout
from dualpath.engine.model import Model, best_device
from dualpath.engine.store import BlockReader, scan
from dualpath.replay import Outcome, Plan, replay
from dualpath.results.run import Run
from dualpath.trace.reader import TraceFile
from dualpath.trace.select import select
from dualpath.trace.tokens import TokenStream

pytestmark = pytest.mark.engine

MOVING_ARMS = [name for name, arm in ARMS.items() if arm.moves_kv]
_LINK = ["resource", "node", "engine", "direction", "route"]


def _run(trace: Path, cluster: Path, output: Path, arm: str, **options: Any) -> Outcome:
    watch = options.pop("watch", lambda ended, planned: None)
    return replay(Plan(trace=trace, cluster=cluster, arm=arm, output=output, agents=4, **options), watch)


def _engines() -> list[int]:
    """Engine processes that are children of this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == os.getpid() and b"dualpath.engine.worker" in command:
            found.append(int(entry.name))
    return found


def _counted_and_predicted(directory: Path) -> tuple[dict[Any, int], dict[Any, int]]:
    counted = pl.read_parquet(directory / "links.parquet").group_by(_LINK).agg(pl.col("bytes").sum())
    predicted = pl.read_parquet(directory / "predicted.parquet")
    return tuple(
        {row[:-1]: row[-1] for row in frame.select([*_LINK, "bytes"]).rows()} for frame in (counted, predicted)
    )  # type: ignore[return-value]


@pytest.mark.parametrize("model_name", ["tiny-gqa", "tiny-mla"])
def test_every_arm_computes_what_a_machine_without_cache_computes(
    model_name: str, trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    cluster_path = cluster_file(model=model_name, decode=2, attention_ns_per_pair=100)
    cluster = load_cluster(cluster_path).cluster
    layout = store_layout(cluster)
    expected_hash, expected_blocks = _recomputed(trace_file, cluster_path)
    hits = []
    for arm in MOVING_ARMS:
        output, store = tmp_path / arm, tmp_path / f"{arm}-store"
        outcome = _run(trace_file, cluster_path, output, arm, deterministic=True, verify=True, store=store)
        assert outcome.status == "ok", outcome.reasons
        turns = Run.load(output).turns.sort("trajectory", "turn").collect()
        hashes = {(name, turn): value for name, turn, value in turns.select("trajectory", "turn", "output_hash").rows()}
        assert hashes == expected_hash
        hits.append(turns["hit_tokens"].to_list())
        assert turns["hit_tokens"].to_list() == turns["planned_hit_tokens"].to_list()

        locations = scan(store, layout)
        assert set(locations) == set(expected_blocks)
        block = aligned_buffer(layout.stride_bytes)
        with BlockReader(store, layout) as reader:
            for key, location in locations.items():
                reader.read(key, location, block, path="test")
                assert bytes(block[: layout.block_bytes]) == expected_blocks[key]

        checked = pl.read_parquet(output / "blocks.parquet")
        assert (checked["checksum_written"] == checked["checksum_read"]).all()
        assert set(checked["checkpoint"]) == {"storage", "prefill_hbm", "decode_buffer"}
        routes = set(checked["route"])
        if ARMS[arm].read_side == "prefill-only":
            assert routes == {"prefill"}
        elif ARMS[arm].read_side != "shorter-queue":  # which side is shorter is a matter of timing
            assert routes == {"prefill", "decode"}

        counted, predicted = _counted_and_predicted(output)
        assert counted == predicted
    assert all(found == hits[0] for found in hits)
    assert sum(hits[0]) > 0


def _recomputed(trace_file: Path, cluster_path: Path) -> tuple[dict[tuple[str, int], int], dict[bytes, bytes]]:
    """Per turn the hash of the greedy tokens, per block key its bytes, all computed without any cache."""
    cluster = load_cluster(cluster_path).cluster
    model = Model(cluster.model, seed=0, device=best_device())
    hashes: dict[tuple[str, int], int] = {}
    blocks: dict[bytes, bytes] = {}
    torch.set_num_threads(1)
    with TraceFile.open(trace_file) as trace:
        trajectories = [trajectory for family in select(trace, 4, 0) for trajectory in family]
    for trajectory in trajectories:
        stream = TokenStream(trajectory, seed=0, vocab=cluster.model.vocab)
        for turn in range(len(trajectory.turns)):
            prompt, output = stream.prompt(turn), stream.output(turn)
            ids = torch.from_numpy(np.concatenate([prompt, output[:-1]]).astype(np.int64))
            cache, choices = recompute(model, ids, len(prompt), cluster.block_tokens)
            hashes[trajectory.id, turn] = xxhash.xxh3_64_intdigest(choices.numpy().astype(np.int32).tobytes())
            size = cluster.block_tokens
            for index, key in enumerate(stream.keys(turn, size)[: len(ids) // size]):
                blocks[key] = cache[:, index * size : (index + 1) * size].contiguous().numpy().tobytes()
    return hashes, blocks


@pytest.mark.parametrize("arm", list(ARMS))
def test_recorded_events_give_a_fresh_scheduler_the_same_decisions(
    arm: str, trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    cluster_path = cluster_file(decode=2)
    assert _run(trace_file, cluster_path, tmp_path / "run", arm).status == "ok"
    decisions = pl.read_parquet(tmp_path / "run" / "decisions.parquet").sort("index")
    scheduler = Scheduler(load_cluster(cluster_path).cluster, ARMS[arm])
    seen = set()
    for event_text, commands_text in decisions.select("event", "commands").rows():
        kind, fields = msgspec.json.decode(event_text)
        event = msgspec.convert(fields, getattr(core_events, kind))
        seen.add(kind)
        recorded = [
            msgspec.convert(fields, getattr(core_commands, kind)) for kind, fields in msgspec.json.decode(commands_text)
        ]
        assert scheduler.handle(event) == recorded
    assert seen == {"TurnDue", "ReadDone", "PrefillComputed", "PrefillSent", "BufferFreed", "TurnEnded"}


def test_the_oracle_moves_nothing_and_hits_the_same(
    trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    cluster = cluster_file()
    assert _run(trace_file, cluster, tmp_path / "oracle", "oracle").status == "ok"
    counted, predicted = _counted_and_predicted(tmp_path / "oracle")
    assert counted == predicted == {}
    turns = Run.load(tmp_path / "oracle").turns.collect()
    assert turns["hit_tokens"].to_list() == turns["planned_hit_tokens"].to_list()
    assert set(turns["route"]) == {"none", "skipped"}


@pytest.mark.parametrize("arm", ["dualpath", "split", "oracle"])
def test_ttft_parts_are_in_order_and_a_paced_run_counts_busy_time(
    arm: str, trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    cluster = cluster_file(snic="4MB/s", cnic="32MB/s")
    assert _run(trace_file, cluster, tmp_path / "run", arm).status == "ok"
    turns = pl.read_parquet(tmp_path / "run" / "turns.parquet")
    order = ["due_ns", "released_ns", "scheduled_ns", "read_start_ns", "read_end_ns", "first_token_ns", "end_ns"]
    for earlier, later in itertools.pairwise(order):
        assert (turns[earlier] <= turns[later]).all(), (earlier, later)
    links = pl.read_parquet(tmp_path / "run" / "links.parquet").filter(pl.col("resource") == "snic")
    for num_bytes, busy_ns in (
        links.group_by("node", "direction").agg(pl.sum("bytes"), pl.sum("busy_ns")).select("bytes", "busy_ns").rows()
    ):
        assert busy_ns == pytest.approx(num_bytes / 4e6 * 1e9, rel=1e-3)


@pytest.mark.parametrize(
    ("arm", "block", "path"),
    [
        ("basic", 0, "prefill route, prefill engine 0"),
        ("layerwise", 0, "prefill route, prefill engine 0"),
        ("dualpath", 0, "prefill route, prefill engine 0"),
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
        assert readiness.select([pidfd], [], [], 30)[0], f"engine {pid} is still there"
        os.close(pidfd)


def test_a_store_of_another_model_is_refused_before_anything_runs(
    trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    assert _run(trace_file, cluster_file(), tmp_path / "first", "dualpath", store=store).status == "ok"
    with pytest.raises(StoreError, match="another model"):
        _run(trace_file, cluster_file(model="tiny-mla"), tmp_path / "second", "dualpath", store=store)


def test_a_run_is_never_overwritten(trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path) -> None:
    assert _run(trace_file, cluster_file(), tmp_path / "run", "basic", null=True).status == "ok"
    with pytest.raises(RunError, match="holds a run already"):
        _run(trace_file, cluster_file(), tmp_path / "run", "basic")


def test_a_kept_store_is_a_warm_cache(trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path) -> None:
    cluster, store = cluster_file(), tmp_path / "store"
    for name in ("cold", "warm"):
        assert _run(trace_file, cluster, tmp_path / name, "split", store=store, verify=True).status == "ok"
    cold, warm = (Run.load(tmp_path / name).turns.collect() for name in ("cold", "warm"))
    assert warm["hit_tokens"].sum() > cold["hit_tokens"].sum()
    block = load_cluster(cluster).cluster.block_tokens
    prompt = warm["hit_tokens"] + warm["miss_tokens"]
    assert warm["hit_tokens"].to_list() == ((prompt - 1) // block * block).to_list()


def test_online_and_recorded_feeds_count_latency_from_the_due_time(
    trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    plan = {"mode": "online", "rate_per_s": 20.0, "null": True}
    assert _run(trace_file, cluster_file(), tmp_path / "run", "dualpath", **plan).status == "ok"
    turns = Run.load(tmp_path / "run").turns.collect()
    arrivals = turns.filter(pl.col("turn") == 0)["due_ns"].sort()
    assert arrivals.n_unique() == 4
    assert (turns["scheduled_ns"] >= turns["due_ns"]).all()


def test_geometry_of_store_and_cluster_agree(cluster_file: Callable[..., Path]) -> None:
    cluster = load_cluster(cluster_file()).cluster
    assert store_layout(cluster).block_bytes == cluster.block_bytes == BlockGeometry.of(cluster).block_bytes
    assert dataclasses.is_dataclass(cluster)
