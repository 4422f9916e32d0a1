"""A sweep goes on where it stopped. Runs are real simulations of very few agents."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from dualpath.core.errors import RunError
from dualpath.paper import sweep as sweep_module
from dualpath.paper.cells import Cell
from dualpath.paper.sweep import Swept, sweep
from dualpath.plan import Outcome, Plan
from dualpath.series import run_plan

ROOT = Path(__file__).resolve().parents[2]
CELLS = [Cell("ds27b-1p1d", "32k", arm, agents) for arm in ("dualpath", "basic") for agents in (2, 3)]


def alone(cells: list[Cell], out: Path) -> Swept:
    return sweep(cells, ROOT, out, workers=1)


def test_whole_runs_are_kept_and_the_rest_is_run(tmp_path: Path) -> None:
    assert alone([*CELLS, CELLS[0]], tmp_path) == (0, 4, (), False)
    assert alone(CELLS, tmp_path) == (4, 0, (), False)
    path = tmp_path / CELLS[1].name / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "void"}))
    (tmp_path / CELLS[2].name / "run.json").unlink()
    assert alone(CELLS, tmp_path) == (2, 2, (), False)


def test_another_constant_is_another_run(tmp_path: Path) -> None:
    alone(CELLS[:1], tmp_path)
    path = tmp_path / CELLS[0].name / "run.json"
    facts = json.loads(path.read_text())
    facts["profile"]["pass_ms"]["value"] += 1
    path.write_text(json.dumps(facts))
    assert alone(CELLS[:1], tmp_path).ran == 1


def test_two_processes(tmp_path: Path) -> None:
    assert sweep(CELLS[:2], ROOT, tmp_path, workers=2) == (0, 2, (), False)
    assert json.loads((tmp_path / CELLS[0].name / "run.json").read_text())["status"] == "ok"


def test_ctrl_c_keeps_what_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(plan: Plan, progress: Callable[[int, int], None]) -> Outcome:
        if plan.agents == 2:  # the longer run came first
            raise KeyboardInterrupt
        return run_plan(plan, progress)

    monkeypatch.setattr(sweep_module, "run_plan", interrupted)
    assert alone(CELLS[:2], tmp_path) == (0, 1, (), True)
    monkeypatch.setattr(sweep_module, "run_plan", run_plan)
    assert alone(CELLS[:2], tmp_path) == (1, 1, (), False)


def test_a_run_that_fails_is_told_and_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def simulate(plan: Plan, progress: object) -> Outcome:
        if plan.agents == 3:
            raise RunError("no space left")
        return Outcome(plan.output, "ok", (), 1, 1, 1.0)

    monkeypatch.setattr(sweep_module, "run_plan", simulate)
    found = alone(CELLS[:2], tmp_path)
    assert (found.ran, found.failed) == (2, (f"{CELLS[1].name}: no space left",))


def test_longest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[int] = []

    def note(plan: Plan, progress: object) -> Outcome:
        order.append(plan.agents or 0)
        return Outcome(plan.output, "ok", (), 1, 1, 1.0)

    monkeypatch.setattr(sweep_module, "run_plan", note)
    alone(CELLS, tmp_path)
    assert order == [3, 3, 2, 2]
