"""The program reports/gates.py on rows as bench/gate_proof.py writes them."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from dualpath.core.errors import RunError
from dualpath.results.checks import Check

ROOT = Path(__file__).resolve().parents[2]


def _program(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem + "_program", ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def gates() -> ModuleType:
    return _program("reports/gates.py")


def _row(mutant: str, attempt: int, status: str, *, tier: int = 3, **more: Any) -> dict[str, Any]:
    finding = {"tier": tier, "name": "JCT", "status": status, "ratio": 1.0 + 0.001 * attempt}
    host = {"cpu": "a processor", "cores": 2}
    row = {"mutant": mutant, "try": attempt, "tiers": [tier], "commit": "c", "seconds": 60.0, "host": host}
    return {**row, "status": status, "findings": [finding], **more}


def _rows(gates: ModuleType, caught: int, alarms: int, gates_void: int = 0) -> list[dict[str, Any]]:
    rows = [_row(mutant, each, "fail" if each < caught else "pass") for mutant in gates.PLANTED for each in range(20)]
    statuses = ["fail"] * alarms + ["void"] * gates_void + ["pass"] * (40 - alarms - gates_void)
    return rows + [_row(gates.UNCHANGED, each, status) for each, status in enumerate(statuses)]


def _checks(gates: ModuleType, tmp_path: Path, rows: list[dict[str, Any]]) -> dict[str, Check]:
    path = tmp_path / "gates.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {check.id.removeprefix("gates."): check for check in gates.main(path, tmp_path / "out")}


def test_mutants_are_those_that_are_planted(gates: ModuleType) -> None:
    proof = _program("bench/gate_proof.py")
    assert tuple(mutant.name for mutant in proof.MUTANTS) == gates.PLANTED
    assert proof.UNCHANGED == gates.UNCHANGED


def test_nineteen_of_twenty_and_two_of_forty_are_enough(gates: ModuleType, tmp_path: Path) -> None:
    assert all(check.passed for check in _checks(gates, tmp_path, _rows(gates, 19, 2)).values())
    page = (tmp_path / "out" / "report.md").read_text()
    assert "19 / 20" in page
    assert "| 38 | 2 | 0 |" in page


@pytest.mark.parametrize(("caught", "alarms", "void", "failed"), [(18, 2, 0, 5), (20, 3, 0, 1), (20, 0, 1, 1)])
def test_less_is_not_and_a_void_gate_is_no_evidence(
    gates: ModuleType, tmp_path: Path, caught: int, alarms: int, void: int, failed: int
) -> None:
    checks = _checks(gates, tmp_path, _rows(gates, caught, alarms, void))
    assert sum(not check.passed for check in checks.values()) == failed


def test_what_was_not_tried_fails(gates: ModuleType, tmp_path: Path) -> None:
    checks = _checks(gates, tmp_path, [_row(gates.UNCHANGED, each, "void") for each in range(40)])
    assert len(checks) == 6
    assert not any(check.passed for check in checks.values())


def test_rows_of_two_commits_are_refused(gates: ModuleType, tmp_path: Path) -> None:
    rows = [_row(gates.UNCHANGED, 0, "pass"), _row(gates.UNCHANGED, 1, "pass", commit="d")]
    with pytest.raises(RunError, match="gates of 2 commits"):
        _checks(gates, tmp_path, rows)


def test_another_tier_than_the_named_one_does_not_count(gates: ModuleType, tmp_path: Path) -> None:
    rows = _rows(gates, 20, 0)
    for row in rows[:20]:
        row["findings"][0]["tier"] = 1
    checks = _checks(gates, tmp_path, rows)
    assert [name for name, check in checks.items() if not check.passed] == [
        "power.a-sleep-of-3-percent-in-the-read-path"
    ]


def test_what_wall_time_said_is_drawn_of_every_gate_that_has_an_interval(gates: ModuleType) -> None:
    assert gates.time_figures(_rows(gates, 20, 0)) == []
    rows = _rows(gates, 20, 1)
    for row in (*rows[:20], *rows[-40:]):
        row["findings"][0].update(low=0.99, high=1.02, limit="+2.00% and 0.02 s")
    (figure,) = gates.time_figures(rows)
    assert "20 gates" in figure.svg
    assert "40 gates" in figure.svg
    assert figure.svg.count(f"stroke: {gates.COLOURS['fail']}; stroke-width: 1.6") == 21
    assert figure.svg.count(f"stroke: {gates.COLOURS['pass']}; stroke-width: 1.6") == 39
