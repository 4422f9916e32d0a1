from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from dualpath.core.errors import RunError
from dualpath.results.run import Run, load_runs
from synthetic import S, link, turn, write_run


def test_load_types_the_manifest_and_scans_the_tables(tmp_path: Path) -> None:
    run = Run.load(write_run(tmp_path / "r", [turn("a", 0, 0, S)], [link(0, 5)], arm="dualpath"))
    assert (run.arm, run.void, run.cluster.kv_bytes_per_token) == ("dualpath", False, 1000)
    assert isinstance(run.turns, pl.LazyFrame)
    assert run.links.collect()["bytes"].to_list() == [5]
    assert run.blocks is None


def test_names_and_read_nodes_follow_the_numbering(tmp_path: Path) -> None:
    shape = {"prefill": (1, 2), "decode": (2, 1)}
    runs = {
        arm: Run.load(write_run(tmp_path / arm, [turn("a", 0, 0, S)], arm=arm, **shape))
        for arm in ("layerwise", "split", "oracle")
    }
    run = runs["split"]
    assert [run.node_name(node) for node in range(3)] == ["P0", "D0", "D1"]
    assert [run.engine_name(engine) for engine in range(4)] == ["PE0", "PE1", "DE0", "DE1"]
    assert {arm: run.read_nodes() for arm, run in runs.items()} == {
        "layerwise": (0,),
        "split": (0, 1, 2),
        "oracle": (),
    }


def test_read_nodes_of_an_unknown_arm_are_those_it_loaded_with(tmp_path: Path) -> None:
    links = [link(0, 7, node=1), link(0, 9, node=0, direction="write", route="persist")]
    run = Run.load(write_run(tmp_path / "r", [turn("a", 0, 0, S)], links, arm="mine"))
    assert run.read_nodes() == (1,)


def test_a_void_run_says_why(tmp_path: Path) -> None:
    void = write_run(tmp_path / "void", [], status="void", reasons=["PE0 died"])
    partial = write_run(tmp_path / "partial", [turn("a", 0, 0, S, status="unfinished")])
    empty = write_run(tmp_path / "empty", [])
    runs = load_runs([void, partial, empty])
    assert [run.void for run in runs] == [True, True, True]
    assert runs[0].reasons == ("PE0 died",)
    assert runs[1].reasons == ("run.json says ok, but 1 of 1 turns did not finish",)
    assert runs[2].reasons == ("run.json says ok, but there is no turn",)


def test_a_void_run_may_lack_tables_and_a_result_may_not(tmp_path: Path) -> None:
    for status in ("void", "ok"):
        directory = write_run(tmp_path / status, [turn("a", 0, 0, S)], status=status)
        (directory / "links.parquet").unlink()
    assert Run.load(tmp_path / "void").links.collect().is_empty()
    with pytest.raises(RunError, match=r"links\.parquet: missing"):
        Run.load(tmp_path / "ok")


def test_broken_directories_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nowhere: no such run directory"):
        Run.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"run\.json: cannot be read"):
        Run.load(tmp_path / "empty")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "schema_version is None"),
        ('{"schema_version": 2}', "schema_version is 2, this program reads 1"),
        ('{"schema_version": 1}', "missing required field"),
    ],
)
def test_a_bad_manifest_is_explained(tmp_path: Path, text: str, message: str) -> None:
    directory = write_run(tmp_path / "r", [turn("a", 0, 0, S)])
    (directory / "run.json").write_text(text)
    with pytest.raises(RunError, match=message):
        Run.load(directory)


def test_a_manifest_with_a_wrong_type_names_the_key(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "r", [turn("a", 0, 0, S)])
    raw = json.loads((directory / "run.json").read_text())
    raw["cluster"]["prefill"]["nodes"] = "two"
    (directory / "run.json").write_text(json.dumps(raw))
    with pytest.raises(RunError, match=r"cluster\.prefill\.nodes"):
        Run.load(directory)
    with pytest.raises(RunError, match="bucket_ns is 0"):
        Run.load(write_run(tmp_path / "bucket", [turn("a", 0, 0, S)], bucket_ns=0))


def test_a_table_of_another_schema_or_cut_off_is_refused(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "r", [turn("a", 0, 0, S)], [link(0, 5)])
    path = directory / "links.parquet"
    frame = pl.read_parquet(path)
    frame.with_columns(pl.col("bytes").cast(pl.String), extra=pl.lit(1)).write_parquet(path)
    with pytest.raises(RunError, match="bytes is String, declared Int64; unknown column extra"):
        Run.load(directory)
    path.write_bytes(b"PAR1 cut off")
    with pytest.raises(RunError, match="not a readable Parquet file"):
        Run.load(directory)
