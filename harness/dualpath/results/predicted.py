"""Counted bytes against the hop table's prediction, exactly, per resource, node, engine, direction, route."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from dualpath.core.errors import RunError
from dualpath.results.run import Run, polars_schema

KEYS = ("resource", "node", "engine", "direction", "route")

PredictedRow = tuple[str, int, int | None, str, str, int]  # the keys, then bytes


@dataclass(frozen=True, slots=True)
class BytesComparison:
    """`rows`: the keys, counted, predicted. A side without a row counts as 0."""

    rows: pl.DataFrame
    first_difference: str | None  # None: equal everywhere

    @property
    def num_unlike(self) -> int:
        return self.rows.filter(pl.col("counted") != pl.col("predicted")).height

    @property
    def is_equal(self) -> bool:
        return self.first_difference is None


def compare_bytes(run: Run, predicted: Iterable[PredictedRow] | None = None) -> BytesComparison:
    """Compare the run's KV lane with `predicted`, or with its predicted.parquet where none is given.

    The hop table is about KV only, so the model lane takes no part. Raises RunError without a prediction.
    """
    expected = _read(run.directory / "predicted.parquet") if predicted is None else _frame(predicted)
    counted = (
        run.links.filter(pl.col("lane") == "kv").group_by(KEYS).agg(pl.col("bytes").sum().alias("counted")).collect()
    )
    wanted = expected.group_by(KEYS).agg(pl.col("bytes").sum().alias("predicted"))
    rows = (
        counted.join(wanted, on=KEYS, how="full", coalesce=True, nulls_equal=True)
        .with_columns(pl.col("counted", "predicted").fill_null(0))
        .filter((pl.col("counted") != 0) | (pl.col("predicted") != 0))
        .sort(KEYS)
    )
    return BytesComparison(rows, _first_difference(run, rows))


def _first_difference(run: Run, rows: pl.DataFrame) -> str | None:
    unlike = rows.filter(pl.col("counted") != pl.col("predicted"))
    if unlike.is_empty():
        return None
    first = unlike.row(0, named=True)
    engine, node = first["engine"], first["node"]
    place = run.node_name(node) if engine is None else run.engine_name(engine)
    return (
        f"{first['resource']} {place} {first['direction']} {first['route']}: counted {first['counted']:,} B, "
        f"predicted {first['predicted']:,} B ({first['counted'] - first['predicted']:+,} B); "
        f"{unlike.height} of {rows.height} rows differ"
    )


def _schema() -> dict[str, pl.DataType]:
    links = polars_schema("links")
    return {name: links[name] for name in (*KEYS, "bytes")}


def _frame(rows: Iterable[PredictedRow]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=_schema(), orient="row")


def _read(path: Path) -> pl.DataFrame:
    if not path.exists():
        raise RunError(f"{path}: missing; the run has no prediction of its bytes to compare with")
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise RunError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from error
    missing = [name for name in _schema() if name not in frame.columns]
    if missing:
        raise RunError(f"{path}: column {missing[0]!r} is missing; expected {', '.join(_schema())}")
    return frame.select(pl.col(name).cast(kind) for name, kind in _schema().items())
