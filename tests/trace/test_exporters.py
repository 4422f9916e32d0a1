from __future__ import annotations

import json
from pathlib import Path

import pytest
from dualpath.core.errors import TraceError
from dualpath.core.trajectory import Trajectory, Turn
from dualpath.trace.exporters import export_trace
from dualpath.trace.importers import import_trace
from dualpath.trace.reader import TraceFile
from dualpath.trace.stats import trace_stats

FAMILY = [
    Trajectory("a", (Turn(1000, 100), Turn(500, 700, gap_ns=5_000_000), Turn(300, 9, keep_tokens=1100))),
    Trajectory("a/sub", (Turn(900, 50),), "a", 0),
    Trajectory("b", (Turn(1000, 100), Turn(40, 3))),
]


def _requests(path: Path) -> list[tuple[int, int, int, tuple[int, ...]]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(r["timestamp"], r["input_length"], r["output_length"], tuple(r["hash_ids"])) for r in rows]


def test_a_mooncake_trace_survives_import_and_export(shared_traces: Path, tmp_path: Path) -> None:
    source = shared_traces / "mooncake" / "sample" / "conversation_trace.head300.jsonl"
    import_trace("mooncake", source, tmp_path / "t.parquet")
    export_trace("mooncake", tmp_path / "t.parquet", tmp_path / "back.jsonl")
    assert sorted(_requests(tmp_path / "back.jsonl")) == sorted(_requests(source))


def test_export_keeps_counts_and_shared_prefixes(write, tmp_path: Path) -> None:
    report = export_trace("mooncake", write(FAMILY), tmp_path / "t.jsonl")
    rows = _requests(tmp_path / "t.jsonl")
    assert report.num_requests == len(rows) == 6
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert sorted(row[1:3] for row in rows) == sorted(
        (prompt, turn.generate_tokens)
        for trajectory in FAMILY
        for prompt, turn in zip(trajectory.prompt_tokens(), trajectory.turns, strict=True)
    )
    first, second, third = (
        row[3] for prompt in (1000, 1600, 1400) for row in rows if row[1] == prompt and row[3][0] == rows[0][3][0]
    )
    assert first[:1] == second[:1], "turn 1 keeps turn 0's only full block"
    assert second[1] not in first
    assert third[:2] == second[:2], "1,100 kept tokens are two full blocks"
    assert third[2] not in second
    assert len({row[3][0] for row in rows}) == 3, "three trajectories share nothing"


def test_export_import_export_is_stable(write, tmp_path: Path) -> None:
    export_trace("mooncake", write(FAMILY), tmp_path / "one.jsonl")
    import_trace("mooncake", tmp_path / "one.jsonl", tmp_path / "one.parquet")
    export_trace("mooncake", tmp_path / "one.parquet", tmp_path / "two.jsonl")
    assert sorted(_requests(tmp_path / "one.jsonl")) == sorted(_requests(tmp_path / "two.jsonl"))


@pytest.mark.parametrize("scope", ["local", "global"])
def test_recorded_hashes_keep_their_scope(write, tmp_path: Path, scope: str) -> None:
    """512-token hashes go out as they are; local ones only after families are told apart."""
    turns = (Turn(1024, 5, block_hashes=(1, 2)),)
    same = [Trajectory(name, turns, hash_block_tokens=512, hash_scope=scope) for name in ("a", "b")]
    path = write(same, hash_block_tokens=512, hash_scope=scope)
    with TraceFile.open(path) as trace:
        before = trace_stats(trace).hits_across
    export_trace("mooncake", path, tmp_path / "t.jsonl")
    import_trace("mooncake-requests", tmp_path / "t.jsonl", tmp_path / "back.parquet")
    with TraceFile.open(tmp_path / "back.parquet") as trace:
        assert trace_stats(trace).hits_across == before


def test_an_unknown_format_and_a_missing_folder_are_named(write, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="the formats are mooncake"):
        export_trace("trie", write(FAMILY), tmp_path / "t.jsonl")
    with pytest.raises(TraceError, match="folder does not exist"):
        export_trace("mooncake", write(FAMILY), tmp_path / "no" / "t.jsonl")
