"""Prefill engines on this host, decode engines on another: here in one guest, there `dualpath worker` in another."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from dualpath.engine.rdma.settings import RdmaSettings
from dualpath.engine.wire import TOKEN_VARIABLE
from dualpath.plan import Outcome, Plan
from dualpath.replay import replay
from dualpath.results.run import Run

pytestmark = [pytest.mark.two_hosts, pytest.mark.engine]
SHARED = Path("/mnt")  # that both hosts may write


def replayed(trace: Path, cluster: Path, output: Path, arm: str, **options: Any) -> Outcome:
    chosen = {"agents": 2, "deterministic": True, "verify": True}
    plan = Plan(trace=trace, cluster=cluster, arm=arm, output=output, **chosen, **options)
    return replay(plan, lambda ended, planned: None)


def hashes(directory: Path) -> list[tuple[Any, ...]]:
    turns = Run.load(directory).turns.select("trajectory", "turn", "output_hash").collect()
    return sorted(turns.rows())


def in_order(directory: Path, error_ns: int) -> None:
    """Times of both hosts, on one clock: a correction of the wrong sign would be off by twice the offset."""
    steps = ["scheduled_ns", "prefill_start_ns", "first_token_ns", "prefill_end_ns", "end_ns", "persisted_ns"]
    turns = Run.load(directory).turns.select(steps).collect()
    for row in turns.rows():
        known = [t_ns for t_ns in row if t_ns is not None]
        assert all(later - earlier > -error_ns for earlier, later in pairwise(known)), row


def test_a_replay_over_two_hosts_is_that_of_one(
    trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    alone = replayed(trace_file, cluster_file(), tmp_path / "alone", "split")
    assert alone.status == "ok", alone.reasons
    for arm in ("dualpath", "split"):
        outcome = replayed(
            trace_file,
            cluster_file(),
            tmp_path / arm,
            arm,
            store=SHARED / f"store-{arm}",
            network=RdmaSettings(timeout_s=60),
            listen="10.77.0.1:7000",
            remote=("decode",),
            token=os.environ[TOKEN_VARIABLE],
        )
        assert outcome.status == "ok", outcome.reasons
        assert hashes(tmp_path / arm) == hashes(tmp_path / "alone")
        blocks = pl.read_parquet(tmp_path / arm / "blocks.parquet")
        assert len(blocks)
        assert (blocks["checksum_written"] == blocks["checksum_read"]).all()
        facts = json.loads((tmp_path / arm / "run.json").read_text())
        (host,) = facts["hosts"]
        print(arm, host, facts["network"])
        assert host["engines"] == [1]
        assert abs(host["clock_offset_ns"]) > 10 * host["clock_error_ns"], "the other host has a clock of its own"
        in_order(tmp_path / arm, host["clock_error_ns"] + abs(host["clock_drift_ns"]) + host["clock_drift_error_ns"])
        prefill, decode = sorted(facts["network"], key=lambda each: each["engine"])
        assert prefill["moved_bytes"] > 0
        assert prefill["notices_sent"] == decode["notices_heard"] > 0
        assert decode["moved_bytes"] == prefill["staged_bytes"] == decode["staged_bytes"] == 0
