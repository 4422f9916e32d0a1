"""The CPU presets, replayed by the real engine and simulated from a profile that is measured on the same machine.

    python bench/sim_vs_real.py [--runs bench/out/cpu] [--out bench/out/sim_vs_real] [--repeats 2] [--profile FILE]
    python bench/sim_vs_real.py --published     (real runs and profile of one H200, from reports/published/h200)

Real runs are those of bench/cpu.py in RUNS; what is missing of the repeats is run, into OUT/real. Then the machine is
measured (OUT/profile.toml; or the profile is given), and every arm simulated on every cluster, into OUT/sim: once as
the profile says, and with latencies that are a little shorter and longer, as chance would have it.
reports/sim_vs_real.py compares them. Needs an otherwise idle machine; 12 minutes where all has to be run. Runs and
profile that are published were measured elsewhere: nothing is run or measured then, and simulations go to
bench/out/sim_vs_h200 within a minute.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from dualpath.calibrate import calibrate
from dualpath.core.arms import ARMS
from dualpath.core.errors import DualpathError, RunError
from dualpath.plan import Plan
from dualpath.results.run import Run
from dualpath.series import Step, run_series
from dualpath.sim.profile import load_profile
from dualpath.simulate import simulate

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "reports" / "published" / "h200"
TRACE, AGENTS = "agents-32k", 48
LATENCIES = (1.0, 0.8, 0.9, 1.1, 1.2)  # of request_ms, by repeat of a simulation


@dataclass(frozen=True, slots=True)
class Presets:
    """What an experiment replayed, as its own program says."""

    clusters: tuple[str, ...]
    scale: Fraction
    max_len: int

    def plan(self, cluster: str, arm: str, output: Path, repeat: int) -> Plan:
        return Plan(
            trace=ROOT / "traces" / f"{TRACE}.parquet",
            cluster=ROOT / "bench" / "clusters" / f"{cluster}.toml",
            arm=arm,
            output=output,
            agents=AGENTS,
            scale=self.scale,
            max_len=self.max_len,
            repeat=repeat,
        )


CPU = Presets(("cpu-1p1d", "cpu-1p2d", "cpu-2p1d"), Fraction(1, 16), 768)  # bench/cpu.py
H200 = Presets(("h200-1p1d", "h200-1p2d", "h200-2p1d"), Fraction(1, 8), 4096)  # bench/gpu.py


def real_steps(runs: Path, out: Path, repeats: int) -> list[Step]:
    """What is still to be run, round by round: repeats of a cell are not run back to back."""
    had = {(cluster, arm): _num_results(runs / cluster / arm) for cluster in CPU.clusters for arm in ARMS}
    return [
        Step(f"{cluster} {arm} r{repeat}", CPU.plan(cluster, arm, out / cluster / arm / f"r{repeat}", repeat))
        for repeat in range(repeats)
        for (cluster, arm), num in had.items()
        if repeat >= num
    ]


def _num_results(cell: Path) -> int:
    """Runs of a cell that are whole, and written as this version writes them."""
    num = 0
    for path in cell.glob("r*"):
        try:
            num += not Run.load(path).void
        except RunError:
            continue
    return num


def simulate_all(presets: Presets, out: Path, profile: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    request_ms = load_profile(str(profile), Path())[0].request_ms
    for cluster in presets.clusters:
        for arm in ARMS:
            jct_s = []
            for repeat, factor in enumerate(LATENCIES):
                real = presets.plan(cluster, arm, out / cluster / arm / f"r{repeat}", repeat)
                constants = (("request_ms", request_ms * factor),)
                whole = replace(real, backend="sim", profile=str(profile), constants=constants)
                outcome = simulate(whole, lambda done, total: None)
                if outcome.interrupted:
                    raise KeyboardInterrupt
                jct_s.append(outcome.jct_s or 0.0)
            print(f"simulated {cluster} {arm}: JCT {min(jct_s):.2f} to {max(jct_s):.2f} s", file=sys.stderr, flush=True)


def simulate_unshared(presets: Presets, out: Path, profile: Path) -> None:
    """As if each engine had a GPU of its own: what it distorts that they share one."""
    shutil.rmtree(out, ignore_errors=True)
    for cluster in presets.clusters:
        for arm in ARMS:
            shared = presets.plan(cluster, arm, out / cluster / arm / "r0", 0)
            alone = replace(shared, backend="sim", profile=str(profile), constants=(("cores", 0.0),))
            if simulate(alone, lambda done, total: None).interrupted:
                raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "bench" / "out" / "cpu")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "out" / "sim_vs_real")
    parser.add_argument("--repeats", type=int, default=2, help="of each real run; one leaves the noise unknown")
    parser.add_argument("--profile", type=Path, help="instead of measuring one")
    parser.add_argument("--published", action="store_true", help="simulate what one H200 measured")
    arguments = parser.parse_args()
    if arguments.published:
        out, profile = ROOT / "bench" / "out" / "sim_vs_h200", PUBLISHED / "profile.toml"
        simulate_all(H200, out / "sim", profile)
        simulate_unshared(H200, out / "unshared", profile)
        return 0
    profile = arguments.profile or arguments.out / "profile.toml"
    outcomes = run_series(real_steps(arguments.runs, arguments.out / "real", arguments.repeats), replace=True)
    if any(outcome.interrupted for outcome in outcomes):
        return 130
    if arguments.profile is None:
        cluster = ROOT / "bench" / "clusters" / f"{CPU.clusters[0]}.toml"
        calibrate(cluster, profile, lambda line: print(line, file=sys.stderr, flush=True), CPU.max_len)
    simulate_all(CPU, arguments.out / "sim", profile)
    return 2 if any(outcome.status == "void" for outcome in outcomes) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DualpathError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
