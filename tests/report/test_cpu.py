"""The program reports/cpu.py on small synthetic runs in its layout."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
import pytest
from dualpath.core.arms import ARMS
from synthetic import MS, S, link, turn, write_run

PROGRAM = Path(__file__).resolve().parents[2] / "reports" / "cpu.py"
EMPTY = '{"engine_bytes_per_s": [], "plain_bytes_per_s": [], "filesystem": "x", "direct_io": true}'
KEYS = ["resource", "node", "engine", "direction", "route"]


@pytest.fixture(scope="module")
def cpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cpu_report", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


def _write(directory: Path, cluster: str, shape: tuple[int, int], arm: str, repeat: int) -> None:
    """Sixteen agents; the JCT is 12 s over the storage NICs read with, and these run at 96 %."""
    prefill, decode = shape
    nodes = range(prefill) if ARMS[arm].read_side == "prefill-only" else range(prefill + decode)
    jct_s = 12 / len(nodes) * (1 + repeat / 100) * (1.1 if arm == "dualpath-rr" else 1)
    turns = []
    for index in range(16):
        middle = int((0.01 + index / 1000) * S)
        end = int(jct_s * S * (16 + index) / 31)
        turns += [turn(f"t{index}", 0, 0, middle), turn(f"t{index}", 1, middle, end)]
    links = [] if arm == "oracle" else [
        link(step * 100 * MS, 96_000, node=node, route="prefill" if node < prefill else "decode")
        for step in range(int(jct_s * 10))
        for node in nodes
    ]  # fmt: skip
    manifest: dict[str, Any] = {"cluster": cluster, "prefill": (prefill, 1), "decode": (decode, 1)}
    write_run(directory, turns, links, arm=arm, repeat=repeat, **manifest)
    frame = pl.read_parquet(directory / "links.parquet").group_by(KEYS).agg(pl.col("bytes").sum())
    frame.write_parquet(directory / "predicted.parquet")


@pytest.fixture(scope="module")
def complete(cpu: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cpu")
    for cluster, shape in cpu.SHAPES.items():
        for arm in ARMS:
            for repeat in range(2 if arm == "layerwise" else 1):
                _write(root / cluster / arm / f"r{repeat}", cluster, shape, arm, repeat)
    turns = [turn(f"t{index}", 0, 0, S) for index in range(64)]
    write_run(root / "null" / "r0", turns, backend="null", coordinator={"busy_ns": 16 * MS, "turns": 64})
    rates = {
        "plain_bytes_per_s": [2e9, 1e9, 3e9],
        "engine_bytes_per_s": [1.8e9, 1.2e9, 1.5e9],
        "filesystem": "ext4",
        "direct_io": True,
    }
    (root / "native.json").write_text(json.dumps(rates))
    return root


def _checks(bench: Any, *functions: Any) -> dict[str, Any]:
    return {check.id: check for function in functions for check in function(bench)}


def test_a_complete_bench_passes_every_check(cpu: ModuleType, complete: Path, tmp_path: Path, capsys: Any) -> None:
    checks = {check.id: check for check in cpu.main(complete, tmp_path / "out")}
    assert [check.id for check in checks.values() if not check.passed] == []
    assert {id.split(".")[1] for id in checks} == {
        "util",
        "speedup",
        "ties",
        "bytes",
        "tokens",
        "noise",
        "null",
        "native",
    }
    assert checks["cpu.util.cpu-1p2d.split.D1"].value == pytest.approx(0.96)
    assert checks["cpu.speedup.cpu-1p1d.dualpath"].value == pytest.approx(2.01)  # mean of 12 and 12.12 over 6
    assert checks["cpu.noise.cpu-1p1d.layerwise"].value == pytest.approx(0.01)
    assert checks["cpu.null.coordinator"].value == 0.25
    assert checks["cpu.native.read"].value == 0.9
    assert checks["cpu.ties.dualpath-cpu-2p1d.dualpath-cpu-1p2d"].value == pytest.approx(0.0)
    assert len(checks["cpu.speedup.cpu-1p1d.dualpath"].rows) == 3
    written = json.loads((tmp_path / "out" / "checks.json").read_text())
    assert [row["id"] for row in written] == list(checks)
    printed = capsys.readouterr().out
    assert f"{len(checks)} of {len(checks)} checks passed" in printed
    assert (tmp_path / "out" / "index.html").exists()


def test_nothing_there_fails_every_check_and_still_reports(cpu: ModuleType, tmp_path: Path, capsys: Any) -> None:
    checks = cpu.main(tmp_path / "nothing", tmp_path / "out")
    assert not any(check.passed for check in checks)
    assert all("run missing" in check.note for check in checks)
    assert "FAIL cpu.native.read" in capsys.readouterr().out
    assert "run missing" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_a_void_or_broken_run_fails_its_own_checks_only(cpu: ModuleType, complete: Path, tmp_path: Path) -> None:
    root = tmp_path / "cpu"
    shutil.copytree(complete, root)
    split = root / "cpu-1p1d" / "split" / "r0" / "run.json"
    split.write_text(split.read_text().replace('"status": "ok"', '"status": "void"'))
    (root / "cpu-2p1d" / "dualpath" / "r0" / "turns.parquet").unlink()
    bench = cpu.load_bench(root)
    utilisation = partial(cpu.utilisation_checks, limits=cpu.LEAST_UTILISATION)
    ties = partial(cpu.tie_checks, ties=cpu.TIES, limit=cpu.TIE_LIMIT)
    checks = _checks(bench, utilisation, cpu.speed_up_checks, ties, cpu.bytes_checks)
    failed = {id: check for id, check in checks.items() if not check.passed}
    assert all("cpu-1p1d.split" in id or "cpu-2p1d" in id for id in failed)
    assert "void" in failed["cpu.util.cpu-1p1d.split.P0"].note
    assert "turns.parquet: missing" in failed["cpu.bytes.cpu-2p1d.dualpath"].note


def test_one_wrong_byte_is_named(cpu: ModuleType, complete: Path, tmp_path: Path) -> None:
    root = tmp_path / "cpu"
    shutil.copytree(complete, root)
    path = root / "cpu-1p1d" / "dualpath" / "r0" / "predicted.parquet"
    frame = pl.read_parquet(path)
    frame.with_columns(bytes=pl.col("bytes") + (pl.col("node") == 1).cast(pl.Int64)).write_parquet(path)
    (root / "cpu-1p1d" / "basic" / "r0" / "predicted.parquet").unlink()
    checks = _checks(cpu.load_bench(root), cpu.bytes_checks)
    wrong, unpredicted = checks["cpu.bytes.cpu-1p1d.dualpath"], checks["cpu.bytes.cpu-1p1d.basic"]
    assert (wrong.value, wrong.passed) == (1.0, False)
    assert "snic D0 read decode: counted 5,760,000 B, predicted 5,760,001 B" in wrong.note
    assert (unpredicted.value, unpredicted.passed) == (None, False)
    assert "no prediction" in unpredicted.note
    assert checks["cpu.bytes.cpu-1p1d.layerwise"].passed


def test_other_or_missing_tokens_fail_their_check(cpu: ModuleType, complete: Path, tmp_path: Path) -> None:
    root = tmp_path / "cpu"
    shutil.copytree(complete, root)
    path = root / "cpu-1p1d" / "dualpath" / "r0" / "turns.parquet"
    frame = pl.read_parquet(path)
    half = pl.int_range(pl.len()) % 2 == 0
    frame.with_columns(output_hash=pl.when(half).then(7).otherwise("output_hash").cast(pl.UInt64)).write_parquet(path)
    checks = _checks(cpu.load_bench(root), cpu.token_checks)
    assert checks["cpu.tokens.cpu-1p1d.dualpath"].value == pytest.approx(0.5, abs=0.1)
    assert not checks["cpu.tokens.cpu-1p1d.dualpath"].passed
    assert checks["cpu.tokens.cpu-1p1d.split"].passed


def test_the_null_engine_must_have_run_64_trajectories(cpu: ModuleType, tmp_path: Path) -> None:
    write_run(tmp_path / "null" / "r0", [turn("a", 0, 0, S)], backend="null")
    check = cpu.null_check(*cpu.load_null(tmp_path))
    assert not check.passed
    assert check.note == "measured with 1 agents, not 64"


@pytest.mark.parametrize("text", ["{", "{}", '{"engine_bytes_per_s": [], "plain_bytes_per_s": [1]}', EMPTY])
def test_an_unusable_native_file_is_a_failed_check(cpu: ModuleType, tmp_path: Path, text: str) -> None:
    (tmp_path / "native.json").write_text(text)
    check = cpu.native_check(tmp_path / "native.json")
    assert (check.value, check.passed) == (None, False)
    assert "not usable" in check.note


def test_reads_through_the_page_cache_do_not_answer_the_native_check(cpu: ModuleType, tmp_path: Path) -> None:
    rates = {"plain_bytes_per_s": [1e9], "engine_bytes_per_s": [1e9], "filesystem": "tmpfs", "direct_io": False}
    (tmp_path / "native.json").write_text(json.dumps(rates))
    check = cpu.native_check(tmp_path / "native.json")
    assert (check.value, check.passed) == (None, False)
    assert check.note.startswith("not a disk measurement")
