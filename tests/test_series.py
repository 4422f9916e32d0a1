"""A series goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from dualpath import series
from dualpath.core.errors import RunError
from dualpath.replay import Plan
from dualpath.series import Step, run_series

pytestmark = pytest.mark.engine


@pytest.fixture
def steps(
    trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[Step]:
    """Two null runs, as if made by a clean checkout."""
    monkeypatch.setattr(series, "repository", lambda: {"commit": "c0ffee", "dirty": False})
    monkeypatch.setattr("dualpath.provenance.repository", lambda: {"commit": "c0ffee", "dirty": False})
    plan = Plan(trace_file, cluster_file(), "basic", tmp_path / "basic", null=True)
    return [Step("basic", plan), Step("split", replace(plan, arm="split", output=tmp_path / "split"))]


def run_json(step: Step) -> dict[str, object]:
    found: dict[str, object] = json.loads((step.plan.output / "run.json").read_text())
    return found


def test_whole_runs_are_kept_and_void_ones_run_again(steps: list[Step]) -> None:
    assert [outcome.status for outcome in run_series(steps, replace=False)] == ["ok", "ok"]
    assert run_series(steps, replace=False) == []
    void = {**run_json(steps[1]), "status": "void", "reasons": ["interrupted (Ctrl-C)"]}
    (steps[1].plan.output / "run.json").write_text(json.dumps(void))
    assert [outcome.directory.name for outcome in run_series(steps, replace=False)] == ["split"]
    assert run_json(steps[1])["status"] == "ok"


@pytest.mark.parametrize("change", [{"seed": 5}, {"gap_scale": 1.0}, {"agents": 3}, {"max_len": 250}, {"repeat": 1}])
def test_a_run_of_another_plan_is_kept_from_loss_unless_told(steps: list[Step], change: dict[str, int]) -> None:
    run_series(steps, replace=False)
    other = [Step(step.name, replace(step.plan, **change)) for step in steps]
    with pytest.raises(RunError, match="holds a run of another plan"):
        run_series(other, replace=False)
    assert run_json(steps[0])["seed"] == 0
    assert len(run_series(other, replace=True)) == 2


def test_another_commit_cluster_or_trace_is_another_run(
    steps: list[Step], trace_file: Path, cluster_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_series(steps, replace=False)
    cluster_file(attention_ns_per_pair=101)
    assert len(run_series(steps, replace=True)) == 2
    monkeypatch.setattr(series, "repository", lambda: {"commit": "decaf", "dirty": False})
    assert len(run_series(steps, replace=True)) == 2
    monkeypatch.setattr(series, "repository", lambda: {"commit": "c0ffee", "dirty": False})
    assert run_series(steps, replace=True) == []
    monkeypatch.setattr(series, "repository", lambda: {"commit": "c0ffee", "dirty": True})
    with pytest.raises(RunError, match="with uncommitted changes, then or now"):
        run_series(steps, replace=False)
    assert len(run_series(steps, replace=True)) == 2
