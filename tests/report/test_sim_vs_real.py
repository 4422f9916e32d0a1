"""The program reports/sim_vs_real.py on small synthetic runs in its layout."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
from dualpath.core.arms import ARMS
from synthetic import MS, S, turn, write_run

PROGRAM = Path(__file__).resolve().parents[2] / "reports" / "sim_vs_real.py"
PROFILE = {"pass_ms": {"value": 0.7, "source": "measured: in a test"}}


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sim_vs_real_report", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


def _write(directory: Path, cluster: str, arm: str, backend: str, repeat: int, factor: float, ttft_ms: int) -> None:
    end_ns = int(10 * S * factor)
    turns = [turn(f"t{index}", 0, 0, end_ns, first_token_ns=ttft_ms * MS) for index in range(4)]
    write_run(directory, turns, arm=arm, cluster=cluster, backend=backend, repeat=repeat)
    if backend == "sim":
        manifest = json.loads((directory / "run.json").read_text())
        (directory / "run.json").write_text(json.dumps({**manifest, "profile": PROFILE}))


@pytest.fixture
def runs(program: ModuleType, tmp_path: Path) -> Path:
    """Two real runs per cell, 2 % apart, one of bench/cpu.py; simulations 2 % faster, with TTFTs 5 % later."""
    for cluster in program.CLUSTERS:
        for arm in ARMS:
            _write(tmp_path / "cpu" / cluster / arm / "r0", cluster, arm, "engine", 0, 1.01, 100)
            _write(tmp_path / "svr" / "real" / cluster / arm / "r1", cluster, arm, "engine", 1, 0.99, 100)
            for repeat in range(3):
                _write(tmp_path / "svr" / "sim" / cluster / arm / f"r{repeat}", cluster, arm, "sim", repeat, 0.98, 105)
    return tmp_path


def _change(run: Path, **keys: object) -> None:
    manifest = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**manifest, **keys}))


def _report(
    program: ModuleType, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, dict[str, dict[str, object]]]:
    arguments = ["--runs", runs / "svr", "--cpu", runs / "cpu", "--out", runs / "out"]
    monkeypatch.setattr(sys, "argv", ["sim_vs_real.py", *map(str, arguments)])
    code = program.main()
    return code, {row["id"]: row for row in json.loads((runs / "out" / "checks.json").read_text())}


def test_every_cell_is_compared_and_the_noise_stands_beside_it(
    program: ModuleType, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, checks = _report(program, runs, monkeypatch)
    assert code == 0
    assert len(checks) == 2 * 3 * len(program.JUDGED)
    found = checks["simreal.jct.cpu-1p2d.split"]
    assert found["value"] == pytest.approx(0.02)
    assert found["bound"] == "<= 0.05"
    assert "A against A: real 2.0%, simulated 0.0%" in str(found["note"])
    assert len(found["rows"]) == 5  # type: ignore[arg-type]
    assert checks["simreal.ttft.cpu-1p2d.split"]["value"] == pytest.approx(0.05)
    page = (runs / "out" / "index.html").read_text()
    for words in ("Real and simulated", "station by station", "measured: in a test", "sim-real-jct"):
        assert words in page
    assert {path.name for path in (runs / "out" / "figures").iterdir()} == {
        "sim-real-jct.png",
        "sim-real-difference.png",
    }


def test_a_cell_that_is_too_far_off_fails_and_only_that(
    program: ModuleType, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for repeat in range(3):
        directory = runs / "svr" / "sim" / "cpu-2p1d" / "split" / f"r{repeat}"
        shutil.rmtree(directory)
        _write(directory, "cpu-2p1d", "split", "sim", repeat, 1.1, 80)
    code, checks = _report(program, runs, monkeypatch)
    assert code == 1
    failed = [id for id, row in checks.items() if not row["pass"]]
    assert failed == ["simreal.jct.cpu-2p1d.split", "simreal.ttft.cpu-2p1d.split"]
    assert checks[failed[1]]["value"] == pytest.approx(0.2)
    assert "(-20.0%)" in str(checks[failed[1]]["note"])


def test_noise_widens_no_bound_and_the_oracle_is_not_judged(
    program: ModuleType, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for arm in ("split", "oracle"):
        directory = runs / "svr" / "real" / "cpu-1p1d" / arm / "r1"
        shutil.rmtree(directory)
        _write(directory, "cpu-1p1d", arm, "engine", 1, 0.99, 160)
    code, checks = _report(program, runs, monkeypatch)
    assert (code, checks["simreal.ttft.cpu-1p1d.split"]["bound"]) == (1, "<= 0.1")
    assert "simreal.ttft.cpu-1p1d.oracle" not in checks


def test_what_is_missing_or_void_fails_with_its_reason_and_does_not_stop_the_report(
    program: ModuleType, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(runs / "svr" / "sim" / "cpu-1p1d" / "basic")
    (runs / "svr" / "real" / "cpu-1p1d" / "split" / "r1" / "turns.parquet").unlink()
    shutil.rmtree(runs / "cpu" / "cpu-1p1d" / "split")
    _, checks = _report(program, runs, monkeypatch)
    assert checks["simreal.jct.cpu-1p1d.basic"]["value"] is None
    assert checks["simreal.jct.cpu-1p1d.basic"]["note"] == "simulated run missing"
    assert "turns" in str(checks["simreal.jct.cpu-1p1d.split"]["note"])
    assert sum(not row["pass"] for row in checks.values()) == 4


def test_nothing_at_all_is_a_report_that_says_so(
    program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, checks = _report(program, tmp_path, monkeypatch)
    assert code == 1
    assert all(row["note"] == "real run missing; simulated run missing" for row in checks.values())


def test_a_simulation_of_other_work_is_compared_with_nothing(
    program: ModuleType, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = program.CLUSTERS[0]
    for repeat in range(3):
        _change(runs / "svr" / "sim" / cluster / "dualpath" / f"r{repeat}", selection={"generate_factor": "1/2"})
    code, checks = _report(program, runs, monkeypatch)
    found = checks[f"simreal.jct.{cluster}.dualpath"]
    assert (code, found["pass"], found["value"]) == (1, False, None)
    assert "generate_factor is '1/2' and not '1'" in str(found["note"])
    assert checks[f"simreal.jct.{cluster}.split"]["pass"]
