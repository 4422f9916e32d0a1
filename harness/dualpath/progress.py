"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere. On stderr; stdout is for results."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_PLAIN_EVERY_S = 10.0


class StepProgress:
    """A long job of several steps, each of many turns. Use as a context manager."""

    def __init__(self, num_steps: int) -> None:
        self._num_steps = num_steps
        self._step = 0
        self._turns: TurnProgress | None = None

    def begin(self, name: str) -> None:
        self._step += 1
        self._turns = TurnProgress(f"[{self._step}/{self._num_steps}] {name}").__enter__()

    def update(self, done: int, total: int) -> None:
        if self._turns is not None:
            self._turns.update(done, total)

    def end(self, result: str) -> None:
        """Close the step and leave one line about it."""
        turns, self._turns = self._turns, None
        if turns is not None:
            turns.__exit__()
            print(f"{turns.label}: {result}", file=sys.stderr, flush=True)

    def __enter__(self) -> StepProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._turns is not None:
            self._turns.__exit__()


class TurnProgress:
    """Counts turns, or what `unit` says. Use as a context manager; `update` may be called often."""

    def __init__(self, label: str, unit: str = "turns") -> None:
        self.label = label
        self._unit = unit
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._next_line_s = time.monotonic() + _PLAIN_EVERY_S

    def __enter__(self) -> TurnProgress:
        console = Console(stderr=True)
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(self._unit),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=console,
                transient=True,
                refresh_per_second=4,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=None)
        return self

    def update(self, done: int, total: int) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)
            return
        now_s = time.monotonic()
        if now_s >= self._next_line_s:
            self._next_line_s = now_s + _PLAIN_EVERY_S
            print(f"{self.label}: {done} of {total} {self._unit}", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
