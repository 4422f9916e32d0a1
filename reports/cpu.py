"""The CPU report: what dual-path loading brought on the shipped presets, and the checks of why it may be believed.

    python reports/cpu.py [RUNS [OUT]]        default: bench/out/cpu reports/out

Reads RUNS/<cluster>/<arm>/r<k>/, RUNS/null/** and RUNS/native.json; writes the report and checks.json to OUT.
A run that is missing, void or unreadable fails its checks with a note; it does not stop the report. Exits with
1 where a check failed.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path

import polars as pl
from dualpath.core.arms import ARMS
from dualpath.report.experiment import (
    Experiment,
    bytes_checks,
    load_runs,
    noise_checks,
    noise_floor,
    print_summary,
    ratio_check,
    tie_checks,
    token_checks,
    utilisation_checks,
)
from dualpath.report.near import near
from dualpath.report.write import write_report_of
from dualpath.results.bound import coordinator_ms_per_turn
from dualpath.results.checks import RUN_MISSING, Check, at_least, at_most
from dualpath.results.limits import limits_reached, num_cut
from dualpath.results.metrics import summary
from dualpath.results.run import Run
from dualpath.trace.synth import SETS

ROOT = Path(__file__).resolve().parents[1]
TITLE = "KV-cache loading on a CPU: single path, dual path, split"

SHAPES = {"cpu-1p1d": (1, 1), "cpu-1p2d": (1, 2), "cpu-2p1d": (2, 1)}  # prefill and decode nodes
LEAST_UTILISATION = {"layerwise": 0.95, "dualpath": 0.92, "split": 0.92}
LEAST_SPEED_UP = {"cpu-1p1d": (1.8, 2.0), "cpu-1p2d": (2.5, 3.0)}  # demanded, and the ratio of the storage NICs
TIES = (
    (("layerwise", "cpu-1p1d"), ("layerwise", "cpu-1p2d")),
    (("dualpath", "cpu-1p1d"), ("layerwise", "cpu-2p1d")),
    (("dualpath", "cpu-2p1d"), ("dualpath", "cpu-1p2d")),
)
TIE_LIMIT = 0.08
NOISE_LIMIT = 0.03
NULL_LIMIT_MS, NULL_AGENTS = 0.5, 64
NATIVE_LIMIT = 0.80


def main(runs_dir: Path | None = None, out_dir: Path | None = None) -> list[Check]:
    """Read the runs, compute the checks, write the report, print a summary. Returns the checks."""
    runs_dir = runs_dir or ROOT / "bench" / "out" / "cpu"
    out_dir = out_dir or ROOT / "reports" / "out"
    bench = load_bench(runs_dir)
    null, null_problem = load_null(runs_dir)
    checks = [
        *utilisation_checks(bench, LEAST_UTILISATION),
        *speed_up_checks(bench),
        *tie_checks(bench, TIES, TIE_LIMIT),
        *bytes_checks(bench),
        *token_checks(bench),
        *noise_checks(bench, NOISE_LIMIT),
        null_check(null, null_problem),
        native_check(runs_dir / "native.json"),
    ]
    beside = ("engines share one machine's cores",)
    page = write_report_of(bench.runs + null, out_dir, title=TITLE, checks=checks, notes=notes(bench), beside=beside)
    print_summary(bench.runs + null, checks, page)
    return checks


def load_bench(runs_dir: Path) -> Experiment:
    return Experiment.load("cpu", SHAPES, runs_dir)


def load_null(runs_dir: Path) -> tuple[list[Run], str]:
    """Runs of the null engine, void ones too, and what is wrong with any."""
    found, notes = load_runs(path.parent for path in (runs_dir / "null").rglob("run.json"))
    return found, "; ".join(notes)


def notes(bench: Experiment) -> list[str]:
    """What these presets show and what they do not, in the runs' own numbers."""
    runs = [run for runs in bench.cells.values() for run in runs if ARMS[run.arm].moves_kv]
    if not runs:
        return []
    use, paper, reached = runs[0].manifest.trace, SETS["32k"].paper, [limits_reached(run) for run in runs]
    turns = sum(run.turns.select(pl.len()).collect().item() for run in runs) / len(runs) / use.agents
    hits = statistics.mean(summary(run)["hit_rate_measured"] or 0.0 for run in runs)
    return [
        "What shapes the scheduler's choices, and how near it the busiest run came: "
        + "; ".join(f"{name}: {max(found[name] for found in reached):.0%}" for name in reached[0])
        + f". Prompts cut by the attention quota: {sum(map(num_cut, runs))}. Below 100 % a limit decides nothing: then "
        "arms differ by the storage NICs they pool and how evenly, not by the rest of the scheduler; and basic and "
        "layerwise differ little, because device memory is not short.",
        f"The workload is a small machine's share of {use.name}: {turns:.0f} turns per agent (Table 2: "
        f"{paper.turns:.0f}) and {hits:.1%} hits (Table 2: {1 - paper.append / paper.context:.1%}), because blocks "
        "keep their 64 tokens while lengths shrink: more is computed and written per byte loaded than in the paper.",
        "All engines share the cores of one machine. A move reserves its links one by one, so a run bound by compute "
        "NICs would look slightly better than it is.",
    ]


def speed_up_checks(bench: Experiment) -> Iterable[Check]:
    for cluster, (limit, bound) in LEAST_SPEED_UP.items():
        what = f"JCT layerwise / dualpath on {cluster}; {bound:g} storage NICs' worth of bandwidth is the bound"
        yield ratio_check(bench, f"cpu.speedup.{cluster}.dualpath", what, "layerwise", "dualpath", cluster, limit)
    floor = noise_floor(bench, NOISE_LIMIT)
    for slower, faster in (("dualpath", "split"), ("dualpath-rr", "dualpath")):
        for cluster in SHAPES:
            what = f"{faster} no slower than {slower} on {cluster}: JCT {slower} / {faster}"
            id = f"cpu.speedup.{cluster}.{faster}-vs-{slower}"
            note = f"bound is 1 less what A against A differs by, {floor:.1%}"
            yield ratio_check(bench, id, what, slower, faster, cluster, 1 - floor, note)


def null_check(null: list[Run], problem: str) -> Check:
    ended = [run for run in null if not run.void]
    enough = [run for run in ended if run.manifest.trace.agents == NULL_AGENTS]
    values = [coordinator_ms_per_turn(run) for run in enough]
    present = [value for value in values if value is not None]
    note = f"highest of {len(present)} runs" if present else problem or RUN_MISSING
    if ended and not enough:
        agents = ", ".join(str(run.manifest.trace.agents) for run in ended)
        note = f"measured with {agents} agents, not {NULL_AGENTS}"
    what = f"null engine: coordinator time per turn, {NULL_AGENTS} trajectories"
    rows = [str(run.directory) for run in enough]
    return at_most(
        "cpu.null.coordinator", what, max(present, default=None), NULL_LIMIT_MS, unit="ms", note=note, rows=rows
    )


def native_check(path: Path) -> Check:
    """Median over rounds of engine / plain: each round reads both ways in turn, as the speed of a disk wanders."""
    value, note = None, RUN_MISSING
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            rounds = list(zip(found["engine_bytes_per_s"], found["plain_bytes_per_s"], strict=True))
            ratios = [engine / plain for engine, plain in rounds]
            engine, plain = (statistics.median(rates) for rates in zip(*rounds, strict=True))
            note = (
                f"{len(ratios)} rounds, {min(ratios):.2f} to {max(ratios):.2f}; "
                f"medians {engine / 1e9:.2f} and {plain / 1e9:.2f} GB/s on {found['filesystem']}"
            )
            if found["direct_io"]:
                value = statistics.median(ratios)
            else:
                note = f"not a disk measurement: read through the page cache; {note}"
        except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            note = f"{near(path)}: not usable ({type(error).__name__}: {error})"
    what = "unpaced load into a PE buffer / plain threaded O_DIRECT read of the same files, median over rounds"
    rows = [str(near(path))] if path.exists() else []
    return at_least("cpu.native.read", what, value, NATIVE_LIMIT, note=note, rows=rows)


if __name__ == "__main__":
    found = main(*(Path(argument).resolve() for argument in sys.argv[1:3]))
    sys.exit(0 if all(check.passed for check in found) else 1)
