"""The program reports/gpu_sharing.py on the published runs."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
from dualpath.results.checks import Check

PROGRAM = Path(__file__).resolve().parents[2] / "reports" / "gpu_sharing.py"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_sharing_report", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_sharing_report"] = module
    spec.loader.exec_module(module)
    return module


def _checks(program: ModuleType, runs: Path, out: Path) -> dict[str, Check]:
    return {check.id.removeprefix("gpu-sharing."): check for check in program.main(runs, out, out / "not simulated")}


def test_published_runs_are_called_measured_elsewhere_and_bound_what_sharing_distorts(
    program: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = _checks(program, program.PUBLISHED, tmp_path)
    assert all(check.passed for check in checks.values())
    assert {id.split(".")[0] for id in checks} == {"jct", "gain", "gap", "util"}
    assert checks["jct.h200-1p1d.dualpath"].value == pytest.approx(0.022, abs=5e-4)
    assert "published, measured on another machine" in capsys.readouterr().out
    page = (tmp_path / "report.md").read_text()
    assert "published, measured elsewhere" in page
    assert "| h200-1p1d | one GPU | 1.67× | 65.3% |" in page
    assert "| h200-1p1d | two GPUs | 1.70× | 57.6% |" in page
    assert "| h200-1p1d | dualpath | 2 + 2 | 36.9 | 36.1 | -2.2% | – | – | – |" in page  # nothing was simulated here
    assert "simulated, one GPU |" not in page
    assert (tmp_path / "figures" / "gpu-sharing-jct.png").exists()


def test_published_runs_say_on_how_many_gpus_they_were(program: ModuleType) -> None:
    for setting, num in (("one-gpu", 1), ("two-gpus", 2)):
        runs = [json.loads(path.read_text()) for path in (program.PUBLISHED / setting).glob("*/*/r*/run.json")]
        assert len(runs) == 14
        assert all(run["host"]["gpus"] == ["NVIDIA H200"] * num and not run["dirty"] for run in runs)


def test_what_is_simulated_stands_beside_what_was_measured(program: ModuleType, tmp_path: Path) -> None:
    for folder, setting in (("sim", "one-gpu"), ("unshared", "two-gpus")):
        shutil.copytree(program.PUBLISHED / setting, tmp_path / folder)
    program.main(program.PUBLISHED, tmp_path / "out", tmp_path)
    page = (tmp_path / "out" / "report.md").read_text()
    assert "| h200-1p1d | dualpath | 2 + 2 | 36.9 | 36.1 | -2.2% | 36.9 | 36.1 | -2.2% |" in page
    assert "| h200-1p1d | simulated, one for each engine | 1.70× | 57.6% |" in page


def test_a_gain_that_one_gpu_made_fails_and_so_does_a_distortion(program: ModuleType, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(program.PUBLISHED, runs)
    for repeat in ("r0", "r1"):  # with two GPUs dualpath takes as long as layerwise
        cell = runs / "two-gpus" / "h200-1p1d"
        shutil.copyfile(cell / "layerwise" / repeat / "turns.parquet", cell / "dualpath" / repeat / "turns.parquet")
    checks = _checks(program, runs, tmp_path / "out")
    failed = {id for id, check in checks.items() if not check.passed and not id.startswith("util")}
    assert failed == {"jct.h200-1p1d.dualpath", "gain.h200-1p1d"}
    assert "measured elsewhere" not in (tmp_path / "out" / "report.md").read_text()


def test_what_is_missing_fails_with_its_reason_and_does_not_stop_the_report(
    program: ModuleType, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(program.PUBLISHED, runs)
    shutil.rmtree(runs / "two-gpus" / "h200-2p1d" / "oracle")
    checks = _checks(program, runs, tmp_path / "out")
    assert checks["gap.h200-2p1d"].value is None
    assert checks["gap.h200-2p1d"].note == "two GPUs: oracle h200-2p1d: run missing"
    assert checks["gap.h200-1p1d"].passed
    nothing = _checks(program, tmp_path / "nothing", tmp_path / "out")
    assert nothing.keys() == checks.keys()
    assert not any(check.passed for check in nothing.values())
