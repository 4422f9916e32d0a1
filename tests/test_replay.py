"""Real engine processes, real files: every arm computes the same, moves what the table says, and fails in the open."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
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
from dualpath.core.feed import Feed
from dualpath.core.scheduler import Scheduler
from dualpath.engine.backend import EngineBackend
from dualpath.engine.devices import best_device, gpu_names
from dualpath.engine.direct_io import aligned_buffer
from dualpath.engine.exact import recompute
from dualpath.engine.geometry import BlockGeometry, store_layout
from dualpath.engine.models.model import Model
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


def _counted_and_predicted(directory: Path) -> tuple[dict[Any, int], dict[Any, int]]:
    counted = pl.read_parquet(directory / "links.parquet").group_by(_LINK).agg(pl.col("bytes").sum())
    predicted = pl.read_parquet(directory / "predicted.parquet")
    return tuple(
        {row[:-1]: row[-1] for row in frame.select([*_LINK, "bytes"]).rows()} for frame in (counted, predicted)
    )  # type: ignore[return-value]


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "tiny-gqa"},
        {"model": "tiny-mla"},
        {"model": "tiny-dsa"},
        {"model": "cpu-gqa", "layerwise_layers": 3, "cnic": "60MB/s"},  # a layer's moves begin behind another's
    ],
    ids=lambda settings: settings["model"],
)
def test_every_arm_computes_what_a_machine_without_cache_computes(
    settings: dict[str, Any], trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    cluster_path = cluster_file(**settings, decode=2, attention_ns_per_pair=100)
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


def test_no_turn_that_is_due_at_the_start_waits_for_the_trace_to_be_read(
    trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def noting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            told.append(name)
            return call(*arguments)

        return noted

    monkeypatch.setattr(Feed, "take_next", noting("read", Feed.take_next))
    monkeypatch.setattr(EngineBackend, "start", noting("start", EngineBackend.start))
    assert _run(trace_file, cluster_file(), tmp_path / "run", "basic", null=True).status == "ok"
    start = told.index("start")
    assert set(told[:start]) == {"read"}
    assert not told[start + 1 :]


@pytest.mark.parametrize("kv_dtype", ["bf16", "fp16"])
def test_the_engine_keeps_kv_in_the_data_type_that_the_cluster_file_gives(
    kv_dtype: str, trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = cluster_file(model="tiny-dsa")
    path.write_text(f'kv_dtype = "{kv_dtype}"\n' + path.read_text())
    assert _run(trace_file, path, tmp_path / "run", "dualpath", verify=True).status == "ok"
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["cluster"]["kv_bytes_per_token"] == 3 * (24 + 8 + 16) * 2
    assert facts["host"]["gpus"] == gpu_names()
    counted, predicted = _counted_and_predicted(tmp_path / "run")
    assert counted == predicted


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
    """On storage NICs slow enough that queues form, and two engines of each role to choose from."""
    cluster_path = cluster_file(prefill=2, decode=2, snic="4MB/s", cnic="32MB/s")
    assert _run(trace_file, cluster_path, tmp_path / "run", arm).status == "ok"
    decisions = pl.read_parquet(tmp_path / "run" / "decisions.parquet").sort("index")
    scheduler = Scheduler(load_cluster(cluster_path).cluster, ARMS[arm])
    seen, engines = set(), set()
    for event_text, commands_text in decisions.select("event", "commands").rows():
        kind, fields = msgspec.json.decode(event_text)
        event = msgspec.convert(fields, getattr(core_events, kind))
        seen.add(kind)
        recorded = [
            msgspec.convert(fields, getattr(core_commands, kind)) for kind, fields in msgspec.json.decode(commands_text)
        ]
        assert scheduler.handle(event) == recorded
        engines |= {command.prefill_engine for command in recorded if isinstance(command, core_commands.Assigned)}
    assert seen == {"TurnDue", "ReadDone", "PrefillComputed", "PrefillSent", "BufferFreed", "TurnEnded"}
    assert engines == {0, 1}
    # The run decided with compiled code, and so did the scheduler above: the same source as plain Python, too.
    plain = [sys.executable, "-c", _DECIDE_AGAIN, str(tmp_path / "run" / "decisions.parquet"), str(cluster_path), arm]
    subprocess.run(plain, check=True, env={**os.environ, "NUMBA_DISABLE_JIT": "1"})


_DECIDE_AGAIN = """
import sys
from pathlib import Path
import msgspec
import polars as pl
from dualpath.cluster_file import load_cluster
from dualpath.core import events, steps
from dualpath.core.arms import ARMS
from dualpath.core.scheduler import Scheduler
from dualpath.results.recorder import decision_row

decisions, cluster, arm = sys.argv[1:]
assert not hasattr(steps.turn_due, "py_func"), "not compiled"
scheduler = Scheduler(load_cluster(Path(cluster)).cluster, ARMS[arm])
for row in pl.read_parquet(decisions).sort("index").iter_rows(named=True):
    kind, fields = msgspec.json.decode(row["event"])
    event = msgspec.convert(fields, getattr(events, kind))
    assert decision_row(0, event, scheduler.handle(event), None)["commands"] == row["commands"], row
"""


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
