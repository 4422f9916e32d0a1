"""Several runs one after the other: whole ones of an earlier try are kept, so what was interrupted goes on."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from dualpath.cluster_file import load_cluster
from dualpath.compile_cache import source_digest
from dualpath.core.cluster import Cluster
from dualpath.core.errors import RunError
from dualpath.plan import Outcome, Plan, describe
from dualpath.progress import StepProgress
from dualpath.provenance import repository
from dualpath.replay import replay
from dualpath.simulate import simulate, simulated_cluster
from dualpath.trace.reader import TraceFile


@dataclass(frozen=True, slots=True)
class Step:
    """One run of a series."""

    name: str
    plan: Plan


def run_plan(plan: Plan, progress: Callable[[int, int], None]) -> Outcome:
    """One run on the backend that its plan names."""
    return (simulate if plan.backend == "sim" else replay)(plan, progress)


def run_series(steps: Sequence[Step], *, replace: bool) -> list[Outcome]:
    """Run what is not done yet; stops where a run is interrupted. Returns the outcomes of what was run.

    A void run is run again. A whole run of another plan, trace, cluster or commit, or of uncommitted changes, is
    deleted with `replace`, else raises RunError before anything runs.
    """
    done = {step.name for step in steps if is_done(step.plan)}
    for step in steps:
        if not replace and step.name not in done and _status(step.plan) == "ok":
            raise RunError(f"{step.plan.output}: {_why_not_done(step.plan)}; choose another -o, or delete it")
    outcomes: list[Outcome] = []
    with StepProgress(len(steps)) as progress:
        for step in steps:
            progress.begin(step.name)
            if step.name in done:
                progress.end("kept from before")
                continue
            if _status(step.plan) is not None or replace:
                shutil.rmtree(step.plan.output, ignore_errors=True)
            started_s = time.monotonic()
            outcome = run_plan(step.plan, progress.update)
            outcomes.append(outcome)
            if outcome.status == "ok":
                took = f"{outcome.turns} turns, {time.monotonic() - started_s:.0f} s"
                progress.end("; ".join(filter(None, (f"JCT {outcome.jct_s:6.2f} s, {took}", outcome.warning))))
                continue
            progress.end("VOID: " + "; ".join(outcome.reasons))
            if outcome.interrupted:
                break
    return outcomes


def is_done(plan: Plan) -> bool:
    """Whether the directory holds a whole run of this plan on this trace and cluster, made by this very commit; of the
    simulator, by these very sources and constants."""
    facts = _facts(plan)
    return facts.get("status") == "ok" and _same_work(plan, facts) and _same_code(plan, facts)


def _why_not_done(plan: Plan) -> str:
    """Of a whole run."""
    facts = _facts(plan)
    if plan.backend != "sim" and _same_work(plan, facts) and facts.get("commit") == repository()["commit"]:
        return (
            "holds a run of this very plan and commit, but with uncommitted changes, then or now, it cannot be told "
            "whether it was the same code; commit them"
        )
    return "holds a run of another plan, trace, cluster or commit"


def _same_work(plan: Plan, facts: dict[str, Any]) -> bool:
    with TraceFile.open(plan.trace) as trace:
        same_trace = facts.get("trace", {}).get("sha256") == trace.sha256
    described = json.loads(json.dumps(describe(plan, _cluster(plan))))
    return same_trace and all(facts.get(key) == value for key, value in described.items())


def _same_code(plan: Plan, facts: dict[str, Any]) -> bool:
    if plan.backend == "sim":
        constants = msgspec.to_builtins(simulated_cluster(plan)[2])
        return facts.get("code") == source_digest() and facts.get("profile") == constants
    now = repository()
    return facts.get("commit") == now["commit"] and not now["dirty"] and not facts.get("dirty")


def _cluster(plan: Plan) -> Cluster:
    return simulated_cluster(plan)[0] if plan.backend == "sim" else load_cluster(plan.cluster).cluster


def _status(plan: Plan) -> object:
    """Status of the run in the plan's directory; None where there is none."""
    return _facts(plan).get("status")


def _facts(plan: Plan) -> dict[str, Any]:
    try:
        found = json.loads((plan.output / "run.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
