"""Runs the cells of the paper: what is whole is kept, the rest is simulated in two processes.

Not aware of what a cell is for. A worker that is killed (out of memory, say) ends the sweep with an error; Ctrl-C ends
it at once. Either way the runs that are whole stay, and the next call goes on from there.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dualpath.core.errors import DualpathError
from dualpath.paper.cells import Cell, unique
from dualpath.plan import Outcome, Plan
from dualpath.series import is_done, run_plan
from dualpath.workers import results_of

WORKERS = 2
_TURNS = {"32k": 60, "48k": 106, "64k": 157}  # per trajectory (Table 2): what a cell costs


class Swept(NamedTuple):
    """How a sweep ended."""

    kept: int  # whole from before
    ran: int
    failed: tuple[str, ...]  # names of void runs, with the reason
    is_interrupted: bool


def sweep(cells: Iterable[Cell], root: Path, out: Path, workers: int = WORKERS) -> Swept:
    """Run what is not done yet. Raises DualpathError for input that no run can be made of, or a worker that died."""
    todo: list[tuple[Cell, Plan]] = []
    kept = 0
    for cell in unique(cells):
        plan = cell.plan(root, out)
        if is_done(plan):
            kept += 1
        else:
            todo.append((cell, plan))
    todo.sort(key=lambda pair: -cost(pair[0]))  # the long ones first, so that no worker is left alone with one
    ran = 0
    failed: list[str] = []
    with _bar(sum(cost(cell) for cell, _ in todo)) as told, closing(results_of(_simulate, todo, workers)) as outcomes:
        told(f"{kept} of {kept + len(todo)} runs are there already", 0)
        try:
            for cell, outcome in outcomes:
                ran += 1
                if outcome.status == "ok":
                    told(f"{cell.name}: JCT {outcome.jct_s:,.0f} s, {outcome.turns:,} turns", cost(cell))
                else:
                    failed.append(f"{cell.name}: {'; '.join(outcome.reasons)}")
                    told(f"VOID {failed[-1]}", cost(cell))
        except KeyboardInterrupt:
            return Swept(kept, ran, tuple(failed), True)
    return Swept(kept, ran, tuple(failed), False)


def cost(cell: Cell) -> int:
    """Turns, roughly."""
    return cell.agents * _TURNS[cell.max_len]


def _simulate(task: tuple[Cell, Plan]) -> tuple[Cell, Outcome]:
    """In a worker. An earlier run of the directory is void or of another plan."""
    cell, plan = task
    shutil.rmtree(plan.output, ignore_errors=True)
    try:
        return cell, run_plan(plan, lambda done, total: None)
    except DualpathError as error:
        return cell, Outcome(plan.output, "void", (str(error),), 0, 0, None)


@contextmanager
def _bar(total: int) -> Iterator[Callable[[str, int], None]]:
    """A bar with a line per run on a terminal, the lines alone elsewhere. On stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        done = 0

        def told(text: str, amount: int) -> None:
            nonlocal done
            done += amount
            print(f"[{done / max(1, total):4.0%}] {text}", file=sys.stderr, flush=True)

        yield told
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("simulating", total=max(1, total))

        def shown(text: str, amount: int) -> None:
            bar.console.print(text, highlight=False)
            bar.advance(task, amount)

        yield shown
