"""Searches: what bisection finds is what every rate would have said; kept runs, void runs, Ctrl-C, the command."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from dualpath import series
from dualpath.cli import main
from dualpath.core.errors import PlanError
from dualpath.plan import INTERRUPTED, Outcome, Plan
from dualpath.results.offered import offered
from dualpath.results.run import Run
from dualpath.results.searched import Probe
from dualpath.results.slo import parse_slo
from dualpath.search import RESULT, ROWS, Search, search
from dualpath.series import run_plan

ROOT = Path(__file__).resolve().parents[1]
PLAN = Plan(
    ROOT / "traces" / "agents-32k.parquet",
    ROOT / "bench" / "clusters" / "paper-ds27b-1p1d.toml",
    "layerwise",
    Path(),
    backend="sim",
    max_len=4096,
)
QUIET = {"low": 1.0, "high": 512.0, "within": 1.0, "repeats": 3}


def question(output: Path, slo: str = "ttft=450ms", **more: object) -> Search:
    chosen: dict[str, object] = {**QUIET, "plan": replace(PLAN, agents=40), **more}
    return Search(arms=("basic",), slo=parse_slo(slo), output=output, **chosen)  # type: ignore[arg-type]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The plans that were run, as they are."""
    plans: list[Plan] = []

    def noted(plan: Plan, progress: Callable[[int, int], None]) -> Outcome:
        plans.append(plan)
        return run_plan(plan, progress)

    monkeypatch.setattr(series, "run_plan", noted)
    return plans


def test_what_is_found_is_what_every_rate_says(tmp_path: Path) -> None:
    wanted = question(tmp_path)
    found = search(wanted)
    capacity = found.capacity("basic")
    assert capacity is not None
    assert capacity.verdict == "found", found.rows
    brackets = []
    for repeat in range(3):
        kept = []
        for place in range(len(wanted.rates)):
            plan = replace(wanted.plan_of(Probe("basic", repeat, place)), output=tmp_path / "all" / f"{repeat}-{place}")
            run_plan(plan, lambda done, total: None)
            kept.append(wanted.slo.is_met(offered(Run.load(plan.output), wanted.slo, wanted.window_s).latencies_ns))
        assert kept == sorted(kept, reverse=True), "this system fails once and for all"
        brackets.append(sum(kept) - 1)
    assert capacity.met == wanted.rates[sorted(brackets)[1]]
    assert capacity.failed == wanted.rates[sorted(brackets)[1] + 1]
    assert (capacity.low, capacity.high) == (wanted.rates[min(brackets)], wanted.rates[max(brackets) + 1])
    assert capacity.level == 0.75
    assert len(found.rows) < 3 * len(wanted.rates)


def test_never_and_always_are_answers(tmp_path: Path) -> None:
    never = search(question(tmp_path / "never", "ttft=1us", repeats=1)).capacity("basic")
    assert never is not None
    assert (never.verdict, never.met, never.failed, never.low) == ("never", None, 1.0, None)
    always = search(question(tmp_path / "always", "ttft=900s", repeats=1)).capacity("basic")
    assert always is not None
    assert (always.verdict, always.met, always.failed, always.high) == ("always", 512.0, None, None)


def test_whole_runs_are_kept_and_another_slo_judges_them_anew(tmp_path: Path, ran: list[Plan]) -> None:
    wanted = question(tmp_path, repeats=1)
    first = search(wanted)
    assert len(ran) == len(first.rows)
    ran.clear()
    assert search(wanted).rows == first.rows
    assert ran == []
    assert search(replace(wanted, slo=parse_slo("ttft=900s"))).capacity("basic") != first.capacity("basic")
    assert ran == [], "both ends were there"
    more = search(replace(wanted, repeats=2))
    assert {plan.repeat for plan in ran} == {1}
    assert {plan.seed for plan in ran} == {1}
    lines = [json.loads(line) for line in (tmp_path / ROWS).read_text().splitlines()]
    assert len(lines) == len(more.rows)
    for line in lines:
        assert (tmp_path / line["run"] / "turns.parquet").exists()
        assert line["met"] == (line["ttft_ns"] <= 450e6)


def test_a_void_run_decides_nothing_and_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(plan: Plan, progress: Callable[[int, int], None]) -> Outcome:
        return Outcome(plan.output, "void", ("engine 1 was killed",), 0, 1, None)

    monkeypatch.setattr(series, "run_plan", broken)
    found = search(question(tmp_path, repeats=1))
    assert found.void == (f"{tmp_path}/basic/rate-1/r0: engine 1 was killed",)
    assert found.capacity("basic") is None
    assert not json.loads((tmp_path / RESULT).read_text())["is_complete"]
    monkeypatch.setattr(series, "run_plan", run_plan)
    assert search(question(tmp_path, repeats=1)).capacity("basic") is not None


def test_ctrl_c_loses_nothing(tmp_path: Path, ran: list[Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    noting = series.run_plan

    def stopped(plan: Plan, progress: Callable[[int, int], None]) -> Outcome:
        if len(ran) == 3:
            return Outcome(plan.output, "void", (INTERRUPTED,), 0, 1, None)
        return noting(plan, progress)

    monkeypatch.setattr(series, "run_plan", stopped)
    found = search(question(tmp_path))
    assert (found.is_interrupted, found.void, len(found.rows)) == (True, (), 3)
    monkeypatch.setattr(series, "run_plan", noting)
    whole = search(question(tmp_path))
    assert len(ran) == len(whole.rows), "none was run twice"
    assert not whole.is_interrupted


def test_a_void_run_that_an_interrupted_search_has_not_come_to_yet_is_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search(question(tmp_path))
    first, last = (tmp_path / "basic" / "rate-1" / name / "run.json" for name in ("r0", "r2"))
    for facts in (first, last):
        facts.write_text(json.dumps({**json.loads(facts.read_text()), "status": "void", "reasons": [INTERRUPTED]}))

    def stopped(plan: Plan, progress: Callable[[int, int], None]) -> Outcome:
        return Outcome(plan.output, "void", (INTERRUPTED,), 0, 1, None)

    monkeypatch.setattr(series, "run_plan", stopped)
    found = search(question(tmp_path))
    assert found.is_interrupted
    assert [probe.repeat for probe in found.rows] == [1]


def test_agents_may_arrive_for_so_long_at_every_rate(tmp_path: Path) -> None:
    wanted = question(tmp_path, plan=PLAN, arrivals_s=2.5)
    assert [wanted.plan_of(Probe("basic", 0, place)).agents for place in (0, 1, 2)] == [3, 5, 10]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"low": 2.0, "high": 1.0}, "--low 2 and --high 1 must be rates"),
        ({"low": 0.0}, "--low 0 and"),
        ({"within": 0.0}, "--within is 0.0000%"),
        ({"within": 2.0}, "--within is 200.0000%"),
        ({"within": 0.001}, "6,243 rates; at most 4,096"),
        ({"repeats": 0}, "--repeats is 0"),
        ({"window_s": 0.0}, "--window-s is 0"),
        ({"arrivals_s": 3.0}, "--arrivals-s 3 and --agents 40 exclude each other"),
        ({"arrivals_s": 1e9, "plan": PLAN}, "is 5.12e+11 agents"),
    ],
)
def test_bad_questions_are_named(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(PlanError, match=re.escape(says)) as error:
        question(tmp_path, **changes)
    assert "\n" not in str(error.value)


# The command


def called(words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["dualpath", *words.split()])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_the_command_prints_probes_an_answer_per_arm_and_json(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = f"search {PLAN.trace} --cluster {PLAN.cluster} --max-len 4096 --agents 40 -o {tmp_path} --json "
    more = "--slo ttft=450ms,tpot=50ms --low 1 --high 512 --within 100% --repeats 2 --arm basic --arm oracle"
    assert called(words + more, monkeypatch) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["arm", "agents/s"]
    assert [line for line in lines if "largest rate that meets ttft ≤ 450 ms, tpot ≤ 50 ms: " in line]
    said = json.loads(lines[-1])
    assert (said["is_complete"], said["rule"], said["repeats"]) == (True, "mean-150s-30min", 2)
    assert set(said["arms"]) == {"basic", "oracle"}
    assert json.loads((tmp_path / RESULT).read_text()) == said


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("--slo ttft=4s --low 2 --high 1", "--low 2 and --high 1 must be rates"),
        ("--slo jct=4s --low 1 --high 2", "'jct' is no latency"),
        ("--slo ttft=4s --low 1 --high 2 --within x", "'x' is no share"),
        ("--slo ttft=4s --low 1 --high 2 --backend engine --set pass_ms=1", "go with --backend sim"),
        ("--slo ttft=4s --low 1 --high 2 --transport nixl", "go with --backend engine"),
    ],
)
def test_a_bad_question_is_exit_code_3(
    more: str, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = f"search {PLAN.trace} --cluster {PLAN.cluster} --arm basic -o {tmp_path / 'out'} {more}"
    assert called(words, monkeypatch) == 3
    assert says in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.engine
def test_the_real_engine_is_searched_in_the_same_way(
    trace_file: Path,
    cluster_file: Callable[..., Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A limit that this machine keeps however busy it is, and one that no machine keeps."""
    words = f"search {trace_file} --cluster {cluster_file()} --backend engine --arm dualpath --low 20 --high 40 "
    more = f"--within 100% --repeats 1 --slo ttft=1000s -o {tmp_path / 'always'} --json"
    assert called(words + more, monkeypatch) == 0
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["arms"]["dualpath"]["verdict"] == "always"
    run = Run.load(tmp_path / "always" / "dualpath" / "rate-20" / "r0")
    assert (run.manifest.backend, run.manifest.feed.mode, run.manifest.feed.rate_per_s) == ("engine", "online", 20.0)
    assert called(words + more.replace("1000s", "1us").replace("always", "never"), monkeypatch) == 0
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["arms"]["dualpath"]["verdict"] == "never"
