"""An experiment: every arm on several shapes of a cluster, repeated; and the checks that such runs have in common.

RUNS/<cluster>/<arm>/r<k>/ holds a run. A run that is missing, void or unreadable fails its checks with a note.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table as RichTable

from dualpath.core.arms import ARMS
from dualpath.core.errors import RunError
from dualpath.report import tables
from dualpath.report.cells import gather
from dualpath.report.near import near
from dualpath.results.bound import noise
from dualpath.results.checks import RUN_MISSING, Check, at_least, at_most
from dualpath.results.compare import compare
from dualpath.results.links import steady_load_utilisation
from dualpath.results.predicted import compare_bytes
from dualpath.results.run import Run
from dualpath.results.steady import AGENTS_PER_SNIC, RULE

Cell = tuple[str, str]  # arm, cluster
LEAST_NOISE = 0.01  # taken to be there even where two repeats happen to agree better
TOKENS_LIMIT = 0.99  # greedy choices may differ where batches, and so the order of a sum, differ


@dataclass(frozen=True, slots=True)
class Experiment:
    """Its runs, sorted; `problems` says why a cell has no (or not every) result."""

    name: str  # which its checks' ids begin with
    shapes: Mapping[str, tuple[int, int]]  # prefill and decode nodes of each cluster
    cells: dict[Cell, list[Run]]  # by repeat
    problems: dict[Cell, str]
    runs: list[Run]  # all that could be read, void ones too

    @classmethod
    def load(cls, name: str, shapes: Mapping[str, tuple[int, int]], runs_dir: Path) -> Experiment:
        cells: dict[Cell, list[Run]] = {}
        problems: dict[Cell, str] = {}
        everything: list[Run] = []
        for cluster in shapes:
            for arm in ARMS:
                found, notes = load_runs((runs_dir / cluster / arm).glob("r*"))
                everything += found
                cells[arm, cluster] = sorted((r for r in found if not r.void), key=lambda run: run.manifest.repeat)
                if notes:
                    problems[arm, cluster] = "; ".join(notes)
        return cls(name, shapes, cells, problems, everything)

    def id(self, *parts: str) -> str:
        """Of a check."""
        return ".".join((self.name, *parts))

    def why_not(self, *cells: Cell) -> str:
        """Why a value over these cells cannot be computed; empty if it can."""
        notes = (f"{' '.join(cell)}: {self.problems.get(cell, RUN_MISSING)}" for cell in cells if not self.cells[cell])
        return "; ".join(notes)

    def rows(self, *cells: Cell) -> tuple[str, ...]:
        return tuple(str(run.directory) for cell in cells for run in self.cells[cell])


def utilisation_checks(experiment: Experiment, limits: Mapping[str, float]) -> Iterable[Check]:
    """Each storage NIC that an arm may read with is in use. limits: the least of each arm."""
    for arm, limit in limits.items():
        for cluster, (prefill, decode) in experiment.shapes.items():
            cell = (arm, cluster)
            used = [steady_load_utilisation(run) for run in experiment.cells[cell]]
            nics = [f"P{node}" for node in range(prefill)]
            if ARMS[arm].read_side != "prefill-only":
                nics += [f"D{node}" for node in range(decode)]
            for nic in nics:
                values = [found[nic] if found else None for found in used]
                present = [value for value in values if value is not None]
                is_whole = bool(present) and len(present) == len(values)
                note = experiment.why_not(cell) or (
                    f"lowest of {len(values)} runs, mean {statistics.mean(present):.3f}"
                    if is_whole
                    else f"no steady window ({RULE}: offline, {AGENTS_PER_SNIC} agents per SNIC), or native links"
                )
                what = f"{arm} on {cluster}: read utilisation of the storage NIC of {nic}, steady window"
                value = min(present) if is_whole else None
                id = experiment.id("util", cluster, arm, nic)
                yield at_least(id, what, value, limit, note=note, rows=experiment.rows(cell))


def ratio_check(
    experiment: Experiment, id: str, what: str, slower: str, faster: str, cluster: str, limit: float, note: str = ""
) -> Check:
    """Of the JCTs of two arms."""
    cells = ((slower, cluster), (faster, cluster))
    value, why = None, experiment.why_not(*cells)
    if not why:
        try:
            found = compare(experiment.cells[cells[0]], experiment.cells[cells[1]]).speed_up
            value = found.value
            why = f"{found.low:.3f} to {found.high:.3f} over {found.pairs} pairs of runs"
        except RunError as error:
            why = str(error)
    return at_least(id, what, value, limit, note="; ".join(filter(None, (why, note))), rows=experiment.rows(*cells))


def tie_checks(experiment: Experiment, ties: Sequence[tuple[Cell, Cell]], limit: float) -> Iterable[Check]:
    """Where loading limits, runs that read with as many storage NICs take as long (Fig. 8)."""
    cells = {(cell.arm, cell.group): cell for cell in gather(experiment.runs).cells}
    for pair in ties:
        names = [" ".join(cell) for cell in pair]
        value, note = None, experiment.why_not(*pair)
        if not note:
            try:
                ratio = compare(experiment.cells[pair[0]], experiment.cells[pair[1]]).speed_up.value
                value = max(ratio, 1 / ratio) - 1
                note = " and ".join(f"{cells[cell].jct_s:.2f} s" for cell in pair if cell in cells)
            except RunError as error:
                note = str(error)
        id = experiment.id("ties", *(name.replace(" ", "-") for name in names))
        what = f"equal storage NICs, equal JCT: {names[0]} against {names[1]}, larger / smaller - 1"
        yield at_most(id, what, value, limit, note=note, rows=experiment.rows(*pair))


def bytes_checks(experiment: Experiment) -> Iterable[Check]:
    for cell, runs in experiment.cells.items():
        arm, cluster = cell
        unlike, total, note = 0, 0, experiment.why_not(cell)
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
        id = experiment.id("bytes", cluster, arm)
        yield at_most(id, what, value, 0, unit="rows", note=note, rows=experiment.rows(cell))


def token_checks(experiment: Experiment) -> Iterable[Check]:
    """The model chose the same tokens whichever way its KV came. The oracle computes on KV that never came."""
    for (arm, cluster), runs in experiment.cells.items():
        cells = (("layerwise", cluster), (arm, cluster))
        if arm == "layerwise" or not ARMS[arm].moves_kv:
            continue
        value, note = None, experiment.why_not(*cells)
        if not note:
            base = experiment.cells[cells[0]][0]
            value = min(share_of_same_tokens(run, base) for run in runs)
            note = f"{base.turns.select(pl.len()).collect().item()} turns"
        what = f"{arm} on {cluster}: share of turns whose greedy tokens are those of layerwise"
        id = experiment.id("tokens", cluster, arm)
        yield at_least(id, what, value, TOKENS_LIMIT, note=note, rows=experiment.rows(*cells))


def share_of_same_tokens(run: Run, other: Run) -> float:
    """Of turns."""
    ours, theirs = (each.turns.select("trajectory", "turn", "output_hash").collect() for each in (run, other))
    return ours.join(theirs, on=ours.columns, how="semi").height / theirs.height


def noise_floor(experiment: Experiment, limit: float) -> float:
    """What A against A differs by at most: smaller differences between arms mean nothing. limit: the most."""
    spreads = [found.spread for found in map(noise, experiment.cells.values()) if found is not None]
    return min(limit, max([LEAST_NOISE, *spreads]))


def noise_checks(experiment: Experiment, limit: float) -> Iterable[Check]:
    repeated = {cell: noise(runs) for cell, runs in experiment.cells.items()}
    if not any(repeated.values()):
        what = "A against A: JCT, largest / smallest - 1"
        yield at_most(experiment.id("noise"), what, None, limit, note=RUN_MISSING)
    for cell, found in repeated.items():
        if found is not None:
            what = f"A against A, {' '.join(cell)}: JCT, largest / smallest - 1"
            note = ", ".join(f"{value:.2f} s" for value in found.jct_s)
            id = experiment.id("noise", cell[1], cell[0])
            yield at_most(id, what, found.spread, limit, note=note, rows=experiment.rows(cell))


def print_summary(runs: list[Run], checks: list[Check], page: Path) -> None:
    """A table for a person on a terminal, plain lines elsewhere."""
    console = Console()
    speed = tables.speed(gather(runs))
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


def load_runs(directories: Iterable[Path]) -> tuple[list[Run], list[str]]:
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
