"""The program reports/gpu.py on the published runs."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "reports" / "gpu.py"


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_report", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_report"] = module
    spec.loader.exec_module(module)
    return module


def test_published_runs_are_called_measured_elsewhere_and_every_check_has_a_value(
    gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = gpu.main(out_dir=tmp_path)
    assert all(check.value is not None for check in checks)
    assert "published, measured on another machine" in capsys.readouterr().out
    assert "published, measured elsewhere" in (tmp_path / "report.md").read_text()
    assert {check.id.split(".")[1] for check in checks} == {
        *("util", "bound", "split", "ties", "tpot", "bytes", "tokens", "noise")
    }
    judged = {check.id.removeprefix("gpu.util.") for check in checks if ".util." in check.id}
    assert {"h200-1p1d.dualpath.P0", "h200-1p1d.dualpath.D0", "h200-1p2d.layerwise.P0"} <= judged
    assert not any(id.startswith("h200-1p2d.dualpath") for id in judged)  # three NICs outrun one GPU


def test_without_the_oracle_nothing_is_excused_and_other_tokens_are_found(gpu: ModuleType, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(gpu.PUBLISHED, runs, ignore=shutil.ignore_patterns("r2", "r3", "h200-2p1d"))
    shutil.rmtree(runs / "h200-1p2d" / "oracle")
    turns = runs / "h200-1p1d" / "split" / "r0" / "turns.parquet"
    frame = pl.read_parquet(turns)
    half = pl.int_range(pl.len()) % 2 == 0
    frame.with_columns(output_hash=pl.when(half).then(7).otherwise("output_hash").cast(pl.UInt64)).write_parquet(turns)
    checks = {check.id: check for check in gpu.main(runs, tmp_path / "out")}
    assert "gpu.util.h200-1p2d.dualpath.D1" in checks
    assert checks["gpu.bound.h200-1p2d.dualpath"].value is None
    assert not checks["gpu.tokens.h200-1p1d.split"].passed
    assert checks["gpu.tokens.h200-1p1d.dualpath"].passed
    assert "measured elsewhere" not in (tmp_path / "out" / "report.md").read_text()
