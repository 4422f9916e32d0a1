"""Find everything wrong with a trace file, not only the first thing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dualpath.core.errors import TraceError
from dualpath.trace.reader import TraceFile
from dualpath.trace.rows import RowChecker

MAX_SHOWN = 100


@dataclass(frozen=True, slots=True)
class ValidationReport:
    path: Path
    num_trajectories: int
    num_turns: int
    num_problems: int
    problems: tuple[str, ...]  # the first MAX_SHOWN

    @property
    def is_valid(self) -> bool:
        return self.num_problems == 0


def validate(path: Path | str, max_shown: int = MAX_SHOWN) -> ValidationReport:
    """Check the whole file. Raises nothing for a bad file: what is wrong is in the report."""
    path = Path(path)
    try:
        trace = TraceFile.open(path)
    except TraceError as error:
        return ValidationReport(path, 0, 0, 1, (str(error),))
    shown: list[str] = []
    found = num_turns = num_trajectories = 0
    current: str | None = None
    with trace:
        checker = RowChecker(trace.meta.hash_block_tokens)
        try:
            for row in trace.rows():
                for problem in checker.check(row):
                    found += 1
                    if len(shown) < max_shown:
                        shown.append(problem.describe(str(path)))
                num_turns += 1
                num_trajectories += num_turns == 1 or row.trajectory != current
                current = row.trajectory
        except TraceError as error:
            found += 1
            shown.append(str(error))
        else:
            if num_trajectories != trace.num_trajectories:
                found += 1
                shown.append(
                    f"{path}: metadata promises {trace.num_trajectories:,} trajectories, the rows have "
                    f"{num_trajectories:,}; import or synthesize it again"
                )
    return ValidationReport(path, num_trajectories, num_turns, found, tuple(shown))
