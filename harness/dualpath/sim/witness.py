"""The events of a simulation as the values that the real engine would tell, and what a fresh scheduler answers.

So the tables `decisions` and `predicted` of a simulated run come from the scheduler's other side (`core/scheduler.py`)
and from the hop table, not from the simulator's own books.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dualpath.core.arms import Arm
from dualpath.core.cluster import Cluster
from dualpath.core.commands import Command
from dualpath.core.events import (
    BufferFreed,
    Event,
    PrefillComputed,
    PrefillSent,
    QueuesReported,
    ReadDone,
    Request,
    TurnDue,
    TurnEnded,
)
from dualpath.core.hops import BytePrediction
from dualpath.core.records import Integers
from dualpath.core.scheduler import Scheduler
from dualpath.core.state import PREFILL
from dualpath.sim.machine import COMPUTED, DUE, FREED, READ_DONE, REPORTED, SENT


class Witness:
    """told: called with each event and the scheduler's answer, in order."""

    def __init__(self, cluster: Cluster, arm: Arm, told: Callable[[Event, Sequence[Command]], None]) -> None:
        self.scheduler = Scheduler(cluster, arm)
        self.prediction = BytePrediction(cluster, arm)
        self._told = told

    def take(self, log: Integers) -> None:
        """log [num_events, LOG_FIELDS]."""
        for row in log.tolist():
            event = event_of(row)
            commands = self.scheduler.handle(event)
            self.prediction.add(commands, self.scheduler.flights)
            self._told(event, commands)


def event_of(row: list[int]) -> Event:
    t_ns, kind, subject, a, b, c, d, e = row
    if kind == DUE:
        return TurnDue(t_ns, Request(subject, a, b, c, d, e))
    if kind == REPORTED:
        return QueuesReported(t_ns)
    if kind == READ_DONE:
        return ReadDone(t_ns, subject, "prefill" if a == PREFILL else "decode")
    if kind == COMPUTED:
        return PrefillComputed(t_ns, subject, a, b)
    if kind == SENT:
        return PrefillSent(t_ns, subject, a)
    if kind == FREED:
        return BufferFreed(t_ns, subject)
    return TurnEnded(t_ns, subject, None if a < 0 else a, b, None)
