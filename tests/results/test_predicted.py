from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from dualpath.core.errors import RunError
from dualpath.results.predicted import PredictedRow, compare_bytes
from dualpath.results.run import Run
from synthetic import MS, S, link, turn, write_run

EQUAL: list[PredictedRow] = [
    ("snic", 0, None, "read", "prefill", 300),
    ("cnic", 1, 1, "write", "miss", 7),
    ("dram", 0, None, "read", "prefill", 0),
]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    links = [
        link(0, 100),
        link(100 * MS, 200),
        link(0, 7, resource="cnic", node=1, engine=1, direction="write", route="miss"),
        link(0, 99, resource="cnic", node=1, engine=1, direction="write", route="miss", lane="model"),
    ]
    return Run.load(write_run(tmp_path / "r", [turn("a", 0, 0, S)], links))


def test_sums_over_buckets_of_the_kv_lane_are_compared(run: Run) -> None:
    found = compare_bytes(run, EQUAL)
    assert found.is_equal
    assert found.rows["counted"].to_list() == found.rows["predicted"].to_list() == [7, 300]


def test_the_first_difference_is_named(run: Run) -> None:
    found = compare_bytes(run, [("snic", 0, None, "read", "prefill", 301), EQUAL[1]])
    assert not found.is_equal
    assert found.num_unlike == 1
    assert found.first_difference == ("snic P0 read prefill: counted 300 B, predicted 301 B (-1 B); 1 of 2 rows differ")


def test_a_row_on_one_side_only_is_a_difference(run: Run) -> None:
    assert "predicted 0 B (+7 B)" in str(compare_bytes(run, EQUAL[:1]).first_difference)
    extra: PredictedRow = ("cnic", 0, 0, "read", "decode", 5)
    assert "cnic PE0 read decode: counted 0 B, predicted 5 B" in str(
        compare_bytes(run, [*EQUAL, extra]).first_difference
    )


def test_reads_predicted_parquet_of_the_run(run: Run) -> None:
    path = run.directory / "predicted.parquet"
    with pytest.raises(RunError, match="no prediction"):
        compare_bytes(run)
    columns = ["resource", "node", "engine", "direction", "route", "bytes"]
    frame = pl.DataFrame(EQUAL, schema=columns, orient="row")
    frame.write_parquet(path)
    assert compare_bytes(run).is_equal
    frame.drop("route").write_parquet(path)
    with pytest.raises(RunError, match="column 'route' is missing"):
        compare_bytes(run)
    path.write_bytes(b"no")
    with pytest.raises(RunError, match="not a readable Parquet file"):
        compare_bytes(run)
