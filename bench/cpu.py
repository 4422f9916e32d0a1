"""The CPU experiment: every arm on 1P1D, 1P2D and 2P1D with paced storage NICs, a null engine, and native loads.

    python bench/cpu.py [--smoke] [OUT]        default OUT: bench/out/cpu

Engine processes are fresh for every run. Runs of one repeat are interleaved: A A of the noise floor is not run back
to back, but a whole round apart. A finished run of the same plan and commit is kept, so an interrupted experiment goes
on where it stopped; a void one is run again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from dualpath.core.arms import ARMS
from dualpath.core.errors import DualpathError
from dualpath.progress import StepProgress
from dualpath.provenance import repository
from dualpath.replay import Plan, replay

ROOT = Path(__file__).resolve().parents[1]
CLUSTERS = ("cpu-1p1d", "cpu-1p2d", "cpu-2p1d")
REPEATED = {("cpu-1p1d", "layerwise"), ("cpu-1p1d", "dualpath")}  # A against A
# A small machine's share of the 32K set: lengths by 1/16, trajectories cut where the context reaches 768 tokens.
TRACE, SCALE, MAX_LEN, AGENTS = "agents-32k", Fraction(1, 16), 768, 32


@dataclass(frozen=True, slots=True)
class Step:
    """One run and where it goes."""

    name: str
    plan: Plan


def steps(out: Path, smoke: bool) -> list[Step]:
    """All runs in order: round by round, every arm of every cluster."""
    if smoke:
        cells = [("cpu-1p1d", arm, 0) for arm in ARMS]
    else:
        cells = [(cluster, arm, 0) for cluster in CLUSTERS for arm in ARMS]
        cells += [(cluster, arm, 1) for cluster, arm in sorted(REPEATED)]
    found = [
        Step(f"{cluster} {arm} r{repeat}", _plan(out / cluster / arm / f"r{repeat}", cluster, arm, repeat, smoke))
        for cluster, arm, repeat in cells
    ]
    null = Plan(
        trace=ROOT / "traces" / f"{TRACE}.parquet",
        cluster=ROOT / "bench" / "clusters" / "cpu-1p1d.toml",
        arm="dualpath",
        output=out / "null" / "dualpath" / "r0",
        agents=64,
        scale=SCALE,
        max_len=MAX_LEN,
        null=True,
    )
    return [*found, Step("null engine", null)]


def _plan(output: Path, cluster: str, arm: str, repeat: int, smoke: bool) -> Plan:
    cluster_file = ROOT / "bench" / "clusters" / f"{cluster}.toml"
    if smoke:
        trace = ROOT / "traces" / "smoke.parquet"
        return Plan(trace=trace, cluster=cluster_file, arm=arm, output=output, agents=8, repeat=repeat)
    return Plan(
        trace=ROOT / "traces" / f"{TRACE}.parquet",
        cluster=cluster_file,
        arm=arm,
        output=output,
        agents=AGENTS,
        scale=SCALE,
        max_len=MAX_LEN,
        repeat=repeat,
    )


def is_done(plan: Plan) -> bool:
    """Whether the directory holds a whole run of this plan, made by this very commit."""
    try:
        facts = json.loads((plan.output / "run.json").read_text())
    except (OSError, json.JSONDecodeError):
        return False
    now = repository()
    same_code = facts.get("commit") == now["commit"] and not now["dirty"] and not facts.get("dirty")
    trace = facts.get("trace", {})
    same_plan = (trace.get("agents"), trace.get("scale"), trace.get("max_len")) == (
        plan.agents,
        str(plan.scale),
        plan.max_len,
    )
    return facts.get("status") == "ok" and same_code and same_plan


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, default=ROOT / "bench" / "out" / "cpu")
    parser.add_argument("--smoke", action="store_true", help="the tiny trace on 1P1D only")
    arguments = parser.parse_args()
    plans = steps(arguments.out, arguments.smoke)
    void = 0
    with StepProgress(len(plans)) as progress:
        for step in plans:
            progress.begin(step.name)
            if is_done(step.plan):
                progress.end("kept from before")
                continue
            shutil.rmtree(step.plan.output, ignore_errors=True)
            started_s = time.monotonic()
            outcome = replay(step.plan, progress.update)
            if outcome.status == "ok":
                progress.end(f"JCT {outcome.jct_s:6.2f} s, {outcome.turns} turns, {time.monotonic() - started_s:.0f} s")
            else:
                void += 1
                progress.end("VOID: " + "; ".join(outcome.reasons))
                if any(reason.startswith("interrupted") for reason in outcome.reasons):
                    return 130
    return 2 if void else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DualpathError as error:
        sys.exit(f"error: {error}")
