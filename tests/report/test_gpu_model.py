"""The program reports/gpu_model.py on rows as bench/gpu_model.py prints them."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "reports" / "gpu_model.py"
MS = 1_000_000


@pytest.fixture(scope="module")
def report() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_model_report", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_model_report"] = module
    spec.loader.exec_module(module)
    return module


def measured() -> list[dict[str, Any]]:
    """A product at 800 TFLOP/s, a copy at 4,000 GB/s."""
    shape = {"new": 4096, "cached": 0, "kv_bytes": 10**9}
    mixed = {"new": 1000, "cached": 3000, "kv_bytes": 10**9}
    return [
        {"what": "setting", "gpu": "a GPU", "torch": "2", "cuda": "13", "model": "qwen2.5-7b"},
        {"what": "matmul", "flop": 800 * 10**9, "ns": [MS]},
        {"what": "copy", "bytes": 4 * 10**9, "ns": [MS]},
        {"what": "prefill", **shape, "flop": 60 * 10**12, "ns": [90 * MS, 100 * MS, 500 * MS]},
        {"what": "layerwise", **shape, "ns": [105 * MS]},
        {"what": "moves", **shape, "ns": [20 * MS]},
        {"what": "prefill", **mixed, "flop": 10**12, "ns": [10 * MS]},
        {"what": "layerwise", **mixed, "ns": [60 * MS]},
        {"what": "moves", **mixed, "ns": [50 * MS]},
        {"what": "decode", "requests": 64, "context": 8192, "bytes": 28 * 10**9, "ns": [10 * MS]},
        {"what": "ours, prompts", "requests": 64, "ns": [1000 * MS]},
        {"what": "ours, steps", "requests": 64, "ns": [1000 * MS]},
        {"what": "transformers", "version": "5", "tokens": 8000, "ns": [16_000 * MS]},
    ]


def made(report: ModuleType, tmp_path: Path, rows: list[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    """(checks by id, the page)"""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    checks = report.main(path, tmp_path / "out")
    return {check.id: check for check in checks}, (tmp_path / "out" / "report.md").read_text()


def test_each_part_is_judged_by_what_the_gpu_can_do(report: ModuleType, tmp_path: Path) -> None:
    checks, page = made(report, tmp_path, measured())
    found = {name: (check.value, check.passed) for name, check in checks.items()}
    assert found == {
        "gpu.prefill": (pytest.approx(0.75), True),
        "gpu.decode": (pytest.approx(0.70), True),
        "gpu.layerwise.4096-0": (pytest.approx(1.05), True),
        "gpu.layerwise.1000-3000": (pytest.approx(1.20), False),
    }
    assert "4,000 tokens/s, transformers 5: 500" in page
    assert "35.0" in page, "GB/s of 3,000 loaded and 4,000 sent tokens in 50 ms"


def test_what_was_not_measured_fails_and_the_page_is_made(report: ModuleType, tmp_path: Path) -> None:
    checks, page = made(report, tmp_path, [])
    assert {(check.value, check.passed) for check in checks.values()} == {(None, False)}
    assert set(checks) == {"gpu.prefill", "gpu.decode", "gpu.layerwise"}
    assert "Nothing was measured" in page


def test_a_part_without_its_other_half_is_not_judged(report: ModuleType, tmp_path: Path) -> None:
    rows = [row for row in measured() if row["what"] not in ("moves", "matmul", "transformers")]
    checks, page = made(report, tmp_path, rows)
    assert checks["gpu.prefill"].value is None
    assert checks["gpu.layerwise.4096-0"].value is None
    assert checks["gpu.decode"].passed
    assert "tokens/s, transformers" not in page
