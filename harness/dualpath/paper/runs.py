"""The runs that the figures are made from, opened as they are asked for, each looked at once."""

from __future__ import annotations

from pathlib import Path

from dualpath.core.errors import DualpathError, RunError
from dualpath.paper.cells import Cell
from dualpath.paper.online import Point, measure
from dualpath.paper.theirs import Theirs
from dualpath.results.bound import jct_s
from dualpath.results.checks import RUN_MISSING
from dualpath.results.run import Run
from dualpath.series import is_done


class Results:
    """root: the repository; out: where the sweep left its runs. What is missing is None, and `why_not` says why."""

    def __init__(self, root: Path, out: Path) -> None:
        self.root = root
        self.out = out
        self.theirs = Theirs(root / "reports" / "paper")
        self.used: dict[Cell, Run | str] = {}  # every cell that was asked for: its run, or why there is none
        self._jct_s: dict[Cell, float] = {}
        self._points: dict[Cell, Point] = {}

    def run(self, cell: Cell) -> Run | None:
        if cell not in self.used:
            self.used[cell] = self._load(cell)
        found = self.used[cell]
        return found if isinstance(found, Run) else None

    def jct_s(self, cell: Cell) -> float | None:
        """When the last turn ended."""
        run = self.run(cell)
        if run is None:
            return None
        if cell not in self._jct_s:
            self._jct_s[cell] = jct_s(run)
        return self._jct_s[cell]

    def point(self, cell: Cell) -> Point | None:
        """Of an online run."""
        run = self.run(cell)
        if run is None:
            return None
        if cell not in self._points:
            self._points[cell] = measure(run)
        return self._points[cell]

    def why_not(self, *cells: Cell) -> str:
        """Empty where every cell has a run."""
        notes = [str(self.used[cell]) for cell in cells if self.run(cell) is None]
        more = [f"and {len(notes) - 1} more"] if len(notes) > 2 else notes[1:]
        return "; ".join([*notes[:1], *more])

    def rows(self, *cells: Cell) -> tuple[str, ...]:
        return tuple(str(run.directory) for run in map(self.run, cells) if run is not None)

    def is_current(self, cell: Cell) -> bool:
        """Whether the run was made by today's simulator with today's constants."""
        try:
            return is_done(cell.plan(self.root, self.out))
        except DualpathError:
            return False

    def _load(self, cell: Cell) -> Run | str:
        directory = self.out / cell.name
        if directory.is_relative_to(Path.cwd()):  # reports travel, machines do not
            directory = directory.relative_to(Path.cwd())
        if not (directory / "run.json").exists():
            return f"{RUN_MISSING}: {cell.name}"
        try:
            run = Run.load(directory)
        except RunError as error:
            return str(error)
        return f"{cell.name} is void: {', '.join(run.reasons)}" if run.void else run
