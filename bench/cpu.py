"""The CPU experiment: every arm on 1P1D, 1P2D and 2P1D with paced storage NICs, and a null engine.

    python bench/cpu.py [--smoke] [OUT]        default OUT: bench/out/cpu

Engine processes are fresh for every run. Runs of one repeat are interleaved: A A of the noise floor is not run back
to back, but a whole round apart. A finished run of the same plan and commit is kept, so an interrupted experiment goes
on where it stopped; a void one is run again.
"""

from __future__ import annotations

import argparse
import sys
from fractions import Fraction
from pathlib import Path

from dualpath.core.arms import ARMS
from dualpath.core.errors import DualpathError
from dualpath.replay import Plan
from dualpath.series import Step, run_series

ROOT = Path(__file__).resolve().parents[1]
CLUSTERS = ("cpu-1p1d", "cpu-1p2d", "cpu-2p1d")
REPEATED = (  # A against A: what the ratios and ties are made of
    ("cpu-2p1d", "dualpath"),
    ("cpu-1p2d", "dualpath"),
    ("cpu-1p1d", "dualpath"),
    ("cpu-1p1d", "split"),
    ("cpu-1p1d", "layerwise"),
)
# A small machine's share of the 32K set: lengths by 1/16, trajectories cut where the context reaches 768 tokens.
TRACE, SCALE, MAX_LEN, AGENTS = "agents-32k", Fraction(1, 16), 768, 48


def steps(out: Path, smoke: bool) -> list[Step]:
    """All runs in order: round by round, every arm of every cluster."""
    if smoke:
        cells = [("cpu-1p1d", arm, 0) for arm in ARMS]
    else:
        cells = [(cluster, arm, 0) for cluster in CLUSTERS for arm in ARMS]
        cells += [(cluster, arm, 1) for cluster, arm in REPEATED]
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, default=ROOT / "bench" / "out" / "cpu")
    parser.add_argument("--smoke", action="store_true", help="the tiny trace on 1P1D only")
    arguments = parser.parse_args()
    outcomes = run_series(steps(arguments.out, arguments.smoke), replace=True)
    if any(outcome.interrupted for outcome in outcomes):
        return 130
    return 2 if any(outcome.status == "void" for outcome in outcomes) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DualpathError as error:
        sys.exit(f"error: {error}")
