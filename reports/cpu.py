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
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from dualpath.core.arms import ARMS
from dualpath.core.errors import RunError
from dualpath.report import tables
from dualpath.report.cells import gather
from dualpath.report.near import near
from dualpath.report.write import write_report_of
from dualpath.results.bound import coordinator_ms_per_turn, noise
from dualpath.results.checks import RUN_MISSING, Check, at_least, at_most
from dualpath.results.compare import compare
from dualpath.results.limits import limits_reached, num_cut
from dualpath.results.links import steady_load_utilisation
from dualpath.results.metrics import summary
from dualpath.results.predicted import compare_bytes
from dualpath.results.run import Run
from dualpath.results.steady import AGENTS_PER_SNIC, RULE
from dualpath.trace.synth import SETS
from rich.console import Console
from rich.table import Table as RichTable

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
TOKENS_LIMIT = 0.99  # greedy choices may differ where batches, and so the order of a sum, differ
LEAST_NOISE = 0.01  # taken to be there even where two repeats happen to agree better


@dataclass(frozen=True, slots=True)
class Bench:
    """What lies under RUNS, sorted; `problems` says why a cell has no (or not every) result."""

    cells: dict[tuple[str, str], list[Run]]  # (arm, cluster) -> results by repeat
    problems: dict[tuple[str, str], str]
    null: list[Run]
    null_problem: str
    runs: list[Run]  # all that could be read, void ones too

    def why_not(self, *cells: tuple[str, str]) -> str:
        """Why a value over these cells cannot be computed; empty if it can."""
        notes = (f"{' '.join(cell)}: {self.problems.get(cell, RUN_MISSING)}" for cell in cells if not self.cells[cell])
        return "; ".join(notes)

    def rows(self, *cells: tuple[str, str]) -> tuple[str, ...]:
        return tuple(str(run.directory) for cell in cells for run in self.cells[cell])


def main(runs_dir: Path | None = None, out_dir: Path | None = None) -> list[Check]:
    """Read the runs, compute the checks, write the report, print a summary. Returns the checks."""
    runs_dir = runs_dir or ROOT / "bench" / "out" / "cpu"
    out_dir = out_dir or ROOT / "reports" / "out"
    bench = load_bench(runs_dir)
    checks = [
        *utilisation_checks(bench),
        *speed_up_checks(bench),
        *tie_checks(bench),
        *bytes_checks(bench),
        *token_checks(bench),
        *noise_checks(bench),
        null_check(bench),
        native_check(runs_dir / "native.json"),
    ]
    page = write_report_of(bench.runs, out_dir, title=TITLE, checks=checks, notes=notes(bench))
    print_summary(bench, checks, page)
    return checks


def load_bench(runs_dir: Path) -> Bench:
    cells: dict[tuple[str, str], list[Run]] = {}
    problems: dict[tuple[str, str], str] = {}
    everything: list[Run] = []
    for cluster in SHAPES:
        for arm in ARMS:
            found, notes = _load((runs_dir / cluster / arm).glob("r*"))
            everything += found
            cells[arm, cluster] = sorted((r for r in found if not r.void), key=lambda run: run.manifest.repeat)
            if notes:
                problems[arm, cluster] = "; ".join(notes)
    null, notes = _load(path.parent for path in (runs_dir / "null").rglob("run.json"))
    return Bench(cells, problems, [run for run in null if not run.void], "; ".join(notes), everything + null)


def notes(bench: Bench) -> list[str]:
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


def utilisation_checks(bench: Bench) -> Iterable[Check]:
    for arm, limit in LEAST_UTILISATION.items():
        for cluster, (prefill, decode) in SHAPES.items():
            cell = (arm, cluster)
            used = [steady_load_utilisation(run) for run in bench.cells[cell]]
            nics = [f"P{node}" for node in range(prefill)]
            if ARMS[arm].read_side != "prefill-only":
                nics += [f"D{node}" for node in range(decode)]
            for nic in nics:
                values = [found[nic] if found else None for found in used]
                present = [value for value in values if value is not None]
                is_whole = bool(present) and len(present) == len(values)
                note = bench.why_not(cell) or (
                    f"lowest of {len(values)} runs, mean {statistics.mean(present):.3f}"
                    if is_whole
                    else f"no steady window ({RULE}: offline, {AGENTS_PER_SNIC} agents per SNIC), or native links"
                )
                what = f"{arm} on {cluster}: read utilisation of the storage NIC of {nic}, steady window"
                value = min(present) if is_whole else None
                yield at_least(f"cpu.util.{cluster}.{arm}.{nic}", what, value, limit, note=note, rows=bench.rows(cell))


def speed_up_checks(bench: Bench) -> Iterable[Check]:
    for cluster, (limit, bound) in LEAST_SPEED_UP.items():
        what = f"JCT layerwise / dualpath on {cluster}; {bound:g} storage NICs' worth of bandwidth is the bound"
        yield _ratio(bench, f"cpu.speedup.{cluster}.dualpath", what, "layerwise", "dualpath", cluster, limit)
    spreads = [found.spread for found in map(noise, bench.cells.values()) if found is not None]
    floor = min(NOISE_LIMIT, max([LEAST_NOISE, *spreads]))
    for slower, faster in (("dualpath", "split"), ("dualpath-rr", "dualpath")):
        for cluster in SHAPES:
            what = f"{faster} no slower than {slower} on {cluster}: JCT {slower} / {faster}"
            id = f"cpu.speedup.{cluster}.{faster}-vs-{slower}"
            note = f"bound is 1 less what A against A differs by, {floor:.1%}"
            yield _ratio(bench, id, what, slower, faster, cluster, 1 - floor, note)


def _ratio(
    bench: Bench, id: str, what: str, slower: str, faster: str, cluster: str, limit: float, note: str = ""
) -> Check:
    cells = ((slower, cluster), (faster, cluster))
    value, why = None, bench.why_not(*cells)
    if not why:
        try:
            found = compare(bench.cells[cells[0]], bench.cells[cells[1]]).speed_up
            value = found.value
            why = f"{found.low:.3f} to {found.high:.3f} over {found.pairs} pairs of runs"
        except RunError as error:
            why = str(error)
    return at_least(id, what, value, limit, note="; ".join(filter(None, (why, note))), rows=bench.rows(*cells))


def tie_checks(bench: Bench) -> Iterable[Check]:
    cells = {(cell.arm, cell.group): cell for cell in gather(bench.runs).cells}
    for pair in TIES:
        names = [" ".join(cell) for cell in pair]
        value, note = None, bench.why_not(*pair)
        if not note:
            try:
                ratio = compare(bench.cells[pair[0]], bench.cells[pair[1]]).speed_up.value
                value = max(ratio, 1 / ratio) - 1
                note = " and ".join(f"{cells[cell].jct_s:.2f} s" for cell in pair if cell in cells)
            except RunError as error:
                note = str(error)
        id = f"cpu.ties.{'.'.join(name.replace(' ', '-') for name in names)}"
        what = f"equal storage NICs, equal JCT: {names[0]} against {names[1]}, larger / smaller - 1"
        yield at_most(id, what, value, TIE_LIMIT, note=note, rows=bench.rows(*pair))


def bytes_checks(bench: Bench) -> Iterable[Check]:
    for cell, runs in bench.cells.items():
        arm, cluster = cell
        unlike, total, note = 0, 0, bench.why_not(cell)
        try:
            for run in runs:
                found = compare_bytes(run)
                total += found.rows.height
                unlike += found.num_unlike
                note = note or found.first_difference or ""
        except RunError as error:
            total, note = 0, str(error)
        is_counted = total > 0 or (bool(runs) and not note and not ARMS[arm].moves_kv)
        if runs and not is_counted:
            note = note or "nothing was counted and nothing predicted"
        elif not note:
            note = f"{total} resource rows of {len(runs)} runs"
        what = f"{arm} on {cluster}: resource rows whose counted bytes are not those of the hop table"
        value = float(unlike) if is_counted else None
        yield at_most(f"cpu.bytes.{cluster}.{arm}", what, value, 0, unit="rows", note=note, rows=bench.rows(cell))


def token_checks(bench: Bench) -> Iterable[Check]:
    """The model chose the same tokens whichever way its KV came. The oracle computes on KV that never came."""
    for (arm, cluster), runs in bench.cells.items():
        cells = (("layerwise", cluster), (arm, cluster))
        if arm == "layerwise" or not ARMS[arm].moves_kv:
            continue
        value, note = None, bench.why_not(*cells)
        if not note:
            found = [run.turns.select("trajectory", "turn", "output_hash").collect() for run in runs]
            wanted = bench.cells[cells[0]][0].turns.select("trajectory", "turn", "output_hash").collect()
            same = [rows.join(wanted, on=rows.columns, how="semi").height for rows in found]
            value = min(same) / wanted.height
            note = f"{wanted.height} turns"
        what = f"{arm} on {cluster}: share of turns whose greedy tokens are those of layerwise"
        yield at_least(f"cpu.tokens.{cluster}.{arm}", what, value, TOKENS_LIMIT, note=note, rows=bench.rows(*cells))


def noise_checks(bench: Bench) -> Iterable[Check]:
    repeated = {cell: noise(runs) for cell, runs in bench.cells.items()}
    if not any(repeated.values()):
        yield at_most("cpu.noise", "A against A: JCT, largest / smallest - 1", None, NOISE_LIMIT, note=RUN_MISSING)
    for cell, found in repeated.items():
        if found is not None:
            what = f"A against A, {' '.join(cell)}: JCT, largest / smallest - 1"
            note = ", ".join(f"{value:.2f} s" for value in found.jct_s)
            id = f"cpu.noise.{cell[1]}.{cell[0]}"
            yield at_most(id, what, found.spread, NOISE_LIMIT, note=note, rows=bench.rows(cell))


def null_check(bench: Bench) -> Check:
    enough = [run for run in bench.null if run.manifest.trace.agents == NULL_AGENTS]
    values = [coordinator_ms_per_turn(run) for run in enough]
    present = [value for value in values if value is not None]
    note = f"highest of {len(present)} runs" if present else bench.null_problem or RUN_MISSING
    if bench.null and not enough:
        agents = ", ".join(str(run.manifest.trace.agents) for run in bench.null)
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


def print_summary(bench: Bench, checks: list[Check], page: Path) -> None:
    """A table for a person on a terminal, plain lines elsewhere."""
    console = Console()
    speed = tables.speed(gather(bench.runs))
    headings = tuple(speed.heading(column) for column in range(len(speed.columns)))
    if console.is_terminal:
        table = RichTable(*headings)
        for row in speed.rows:
            table.add_row(*row)
        console.print(table)
    else:
        widths = [max(map(len, column)) for column in zip(headings, *speed.rows, strict=True)]
        for row in (headings, *speed.rows):
            print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    failed = [check for check in checks if not check.passed]
    for check in failed:
        print(f"FAIL {check.id}: {check.value} (bound {check.bound}) {check.note}")
    print(f"{len(checks) - len(failed)} of {len(checks)} checks passed; report: {near(page)}")


def _load(directories: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """Runs that can be read, and a note for each that cannot or is void."""
    found: list[Run] = []
    notes: list[str] = []
    for directory in sorted(directories):
        try:
            run = Run.load(near(directory))
        except RunError as error:
            notes.append(str(error))
            continue
        found.append(run)
        if run.void:
            notes.append(f"{run.directory.name} is void: {', '.join(run.reasons)}")
    return found, notes


if __name__ == "__main__":
    found = main(*(Path(argument).resolve() for argument in sys.argv[1:3]))
    sys.exit(0 if all(check.passed for check in found) else 1)
