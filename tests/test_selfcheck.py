"""The instrument checks itself, and the check can fail.

Limits here are so wide that a busy machine keeps them, and what is planted is wider.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from dualpath import selfcheck as selfcheck_module
from dualpath import series, stub_load
from dualpath.cli import main
from dualpath.core.errors import PlanError
from dualpath.plan import Outcome, Plan
from dualpath.results.run import Run
from dualpath.selfcheck import Limits, selfcheck
from dualpath.stub_load import DELAYS, known_trajectories, known_turns, stub_plan

WIDE = "--release-ms 500 --allow-ms 500 --late-ms 60 --turns-per-s 20 --lag-ms 500"


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer agents, one rate."""
    monkeypatch.setattr(stub_load, "_AGENTS", 10)
    monkeypatch.setattr(stub_load, "_MOST_AGENTS", 10)
    monkeypatch.setattr(selfcheck_module, "_DOUBLINGS", 0)


def called(words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["dualpath", "selfcheck", *words.split()])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_what_is_known_beforehand(tmp_path: Path) -> None:
    """Stubs, worked out by hand: 50 ms to the first token and 7 more to read a hit, 3 to hand over, 16 tokens in 80."""
    plan = stub_plan(tmp_path, DELAYS)
    turns = known_turns(plan)
    assert turns.height == 10 * 4
    assert turns.filter(pl.col("turn") == 0)["ttft"].unique().to_list() == [50e6]
    assert turns.filter(pl.col("turn") > 0)["ttft"].unique().to_list() == [57e6]
    assert turns["ttst"].unique().to_list() == [8e6]
    assert turns["tpot"].unique().to_list() == [83e6 / 16]
    agents = known_trajectories(plan)
    assert agents["trajectory_jct"].to_list() == pytest.approx([(50 + 83 + 3 * (40 + 57 + 83)) * 1e6] * 10)
    assert (agents["end"] > agents["trajectory_jct"]).all(), "nobody arrives before the run begins"


@pytest.mark.engine
def test_every_claim_holds_and_rows_are_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert called(f"-o {tmp_path} {WIDE} --json", monkeypatch) == 0
    lines = capfd.readouterr().out.splitlines()
    assert "every claim holds" in lines
    said = json.loads(lines[-1])
    assert said["failed"] == said["void"] == []
    assert {claim["id"] for claim in said["claims"]} == {
        *("release", "read", "ttft", "ttst", "tpot", "jct", "end"),
        *("change.ttft", "change.tpot", "sustained"),
    }
    assert json.loads((tmp_path / "checks.json").read_text()) == said["claims"]
    for claim in said["claims"]:
        for row in claim["rows"]:
            run = Run.load(row)
            assert (run.manifest.backend, run.void) == ("stub", False)
    base = Run.load(tmp_path / "base")
    assert base.raw["delays"]["first_token_ns"] == DELAYS.first_token_ns
    assert called(f"-o {tmp_path} {WIDE}", monkeypatch) == 0
    assert "kept from before" not in capfd.readouterr().err, "what the machine was like then"
    assert Run.load(tmp_path / "base").raw["started_at"] > base.raw["started_at"]


@pytest.mark.engine
def test_a_delay_that_no_claim_knows_of_makes_it_fail(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert called(f"-o {tmp_path} {WIDE} --plant-ms 1000 --json", monkeypatch) == 1
    lines = capfd.readouterr().out.splitlines()
    failed = json.loads(lines[-1])["failed"]
    assert "ttft" in failed
    assert "jct" in failed
    assert any(line.startswith("failed: ") for line in lines)


def test_a_void_run_is_no_verdict(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(plan: Plan, progress: Callable[[int, int], None]) -> Outcome:
        return Outcome(plan.output, "void", ("engine 1 was killed",), 0, 1, None)

    monkeypatch.setattr(series, "run_plan", broken)
    (tmp_path / "checks.json").write_text("[]")
    assert called(f"-o {tmp_path}", monkeypatch) == 2
    assert not (tmp_path / "checks.json").exists(), "of an earlier try: not of this one"
    assert f"void: {tmp_path}/base: engine 1 was killed" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("limits", "planted_ms", "says"),
    [
        ({"allow_ms": 0.0}, 0.0, "--allow-ms is 0;"),
        ({"turns_per_s": 1e5}, 0.0, r"--turns-per-s is 100000;"),
        ({}, -1.0, "--plant-ms is -1;"),
    ],
)
def test_bad_limits_are_named(limits: dict[str, float], planted_ms: float, says: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=says):
        selfcheck(tmp_path / "out", Limits(**limits), planted_ms)
    assert not (tmp_path / "out").exists()
