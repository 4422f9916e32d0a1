from __future__ import annotations

from pathlib import Path

import pytest
from dualpath.core.errors import TraceError
from dualpath.trace.commands import (
    FORMATS,
    export_trace,
    import_trace,
    show_stats,
    synthesize_to,
    validate_file,
)


def test_a_synthesized_file_is_valid_and_stands_beside_the_paper(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    assert synthesize_to("48k", 500, 1, path).startswith(f"{path}: 500 trajectories, ")
    assert validate_file(path) == []
    text, value = show_stats(path)
    assert "paper" in text
    assert "planned" in text
    assert value["num_trajectories"] == 500


def test_import_says_what_became_of_the_source(tmp_path: Path) -> None:
    source = tmp_path / "t.csv"
    source.write_text("session,turn,append,output\na,0,100,5\n")
    lines = import_trace("table", source, tmp_path / "t.parquet")
    assert lines[0] == f"{tmp_path / 't.parquet'}: 1 trajectories, 1 turns from {source}"
    assert any(line.startswith("given: ") for line in lines)
    lines = export_trace("mooncake", tmp_path / "t.parquet", tmp_path / "t.jsonl")
    assert lines[0].startswith(f"{tmp_path / 't.jsonl'}: 1 requests")
    assert "paper" not in show_stats(tmp_path / "t.parquet")[0]


def test_hits_of_recorded_hashes_are_shown(tmp_path: Path) -> None:
    source = tmp_path / "m.jsonl"
    row = '{"timestamp": 0, "input_length": 1024, "output_length": 5, "hash_ids": [1, 2]}\n'
    source.write_text(row * 2)
    import_trace("mooncake", source, tmp_path / "t.parquet")
    text, _ = show_stats(tmp_path / "t.parquet")
    assert "1,024 of 2,048 prompt tokens; recorded 512-token blocks, all in scope" in text


def test_problems_and_bad_input_are_reported(tmp_path: Path) -> None:
    assert "does not exist" in validate_file(tmp_path / "none")[0]
    with pytest.raises(TraceError, match="does not exist"):
        show_stats(tmp_path / "none")
    assert "kv-cache-tester" in FORMATS
