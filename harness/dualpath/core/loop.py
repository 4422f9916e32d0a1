"""The main loop: feed -> scheduler -> backend, until every turn has ended.

The same loop drives the real engine, the simulator and the null engine; only the backend differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from dualpath.core.commands import Command
from dualpath.core.events import Event, Request, TurnDue, TurnEnded
from dualpath.core.feed import DueTurn, Feed
from dualpath.core.scheduler import Scheduler


class Backend(Protocol):
    """Executes commands and tells what happens."""

    def now_ns(self) -> int:
        """Time of the run's clock."""

    def wait(self, until_ns: int | None) -> Sequence[Event]:
        """Block until something happened or until_ns (None: no limit); returns events in order.
        Raises WorkerError where an engine failed."""

    def execute(self, commands: Sequence[Command]) -> None:
        """Start the commands; returns at once."""


class Recorder(Protocol):
    """Keeps raw rows."""

    def decided(self, event: Event, commands: Sequence[Command], at_ns: int, cost_ns: int) -> None:
        """Note one event, what the scheduler chose, when (run's clock, before anything was executed) and what the
        choice cost."""


def run(
    feed: Feed,
    admit: Callable[[DueTurn], Request],
    scheduler: Scheduler,
    backend: Backend,
    recorder: Recorder,
    cost_clock: Callable[[], int],
) -> None:
    """Replay until every turn has ended.

    admit: turns a due turn into a request, i.e. looks its prefix up. cost_clock: ns, only to price decisions.
    """

    def step(event: Event) -> None:
        before_ns = cost_clock()
        commands = scheduler.handle(event)
        cost_ns = cost_clock() - before_ns
        at_ns = backend.now_ns()
        if commands:
            backend.execute(commands)
        recorder.decided(event, commands, at_ns, cost_ns)

    turn_of: dict[int, DueTurn] = {}
    while not feed.finished:
        for due in feed.due(backend.now_ns()):
            request = admit(due)
            turn_of[request.id] = due
            step(TurnDue(due.due_ns, request))
        for event in backend.wait(feed.next_due_ns):
            step(event)
            if isinstance(event, TurnEnded):
                due = turn_of.pop(event.request)
                feed.ended(due.trajectory, due.turn, event.end_ns)
