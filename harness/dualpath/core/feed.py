"""Which turn is due when.

Offline: all trajectories start together. Online and recorded: each has an arrival time. What follows is in agents.py;
here trajectories come in, and numbers become values.

Trajectories are taken when they arrive and dropped when they have ended: memory follows the agents that run, not the
length of the trace.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dualpath.core.agents import (
    NUM_FREE,
    NUM_GONE,
    NUM_LIVE,
    Agents,
    arrive,
    grow_agents,
    new_agents,
    turn_ended,
)
from dualpath.core.heap import put, take
from dualpath.core.queues import NONE
from dualpath.core.trajectory import Trajectory
from dualpath.core.turn_table import TurnTable


@dataclass(frozen=True, slots=True)
class Start:
    """A trajectory and the sub-agents that follow it, root first, and when the root starts (ns of the run's clock)."""

    arrival_ns: int
    family: Sequence[Trajectory]


@dataclass(frozen=True, slots=True, order=True)
class DueTurn:
    """Turns that fall due together are served in order of trajectory, then turn. Trajectories are numbered as they
    arrive."""

    due_ns: int
    trajectory: int
    turn: int


class Feed:
    """Releases due turns; is told when turns end.

    starts: in order of arrival; the next one is taken only when it is due, or when somebody asks for it.
    gap_scale: factor on every recorded gap; 0 is the paper's replay.
    """

    def __init__(self, starts: Iterable[Start], gap_scale: float = 0.0, block_tokens: int = 64) -> None:
        self._starts = iter(starts)
        self._next_start = next(self._starts, None)
        self._num_arrived = 0
        self._live: dict[int, tuple[int, Trajectory]] = {}  # number -> slot, trajectory
        self.agents: Agents = new_agents(gap_scale)
        self.turns = TurnTable(block_tokens)

    @property
    def finished(self) -> bool:
        return not self.num_live and self._next_start is None

    @property
    def num_live(self) -> int:
        """Trajectories that have arrived and not ended."""
        return int(self.agents.counts[NUM_LIVE])

    @property
    def next_arrival_ns(self) -> int | None:
        """Of the first trajectory that has not been taken."""
        return None if self._next_start is None else self._next_start.arrival_ns

    @property
    def next_due_ns(self) -> int | None:
        """Time of the next turn that is already known to fall due, if any."""
        times_ns = [int(self.agents.due.rows[0].a)] if self.agents.due.size[0] else []
        if self._next_start is not None:
            times_ns.append(self._next_start.arrival_ns)
        return min(times_ns, default=None)

    def trajectory(self, number: int) -> Trajectory:
        """The trajectory that a DueTurn names; known until its last turn has ended."""
        return self._live[number][1]

    def due(self, now_ns: int) -> list[DueTurn]:
        """Take the turns due by now, oldest first."""
        self.take_arrived(now_ns)
        turns: list[DueTurn] = []
        heap = self.agents.due
        while heap.size[0] and heap.rows[0].a <= now_ns:
            due_ns, number, turn, _ = take(heap)
            turns.append(DueTurn(int(due_ns), int(number), int(turn)))
        return turns

    def ended(self, trajectory: int, turn: int, end_ns: int) -> None:
        """Note that a turn generated its last token at end_ns; its successors become known."""
        turn_ended(self.agents, self.turns.rows, self._live[trajectory][0], turn, end_ns)
        self.forget()

    def forget(self) -> None:
        """Drop trajectories that have ended."""
        counts = self.agents.counts
        for number in self.agents.gone[: counts[NUM_GONE]].tolist():
            del self._live[number]
        counts[NUM_GONE] = 0

    def take_arrived(self, now_ns: int) -> None:
        """Take the trajectories that have arrived by now."""
        while self._next_start is not None and self._next_start.arrival_ns <= now_ns:
            self.take_next()

    def take_next(self) -> None:
        """Take the next trajectory, with its sub-agents: its first turn is due at its arrival."""
        start, self._next_start = self._next_start, next(self._starts, None)
        assert start is not None, "there is one: next_arrival_ns"
        assert self._next_start is None or self._next_start.arrival_ns >= start.arrival_ns, "starts come in order"
        self.forget()
        while self.agents.counts[NUM_FREE] < len(start.family):
            grow_agents(self.agents, 2 * len(self.agents.slots))
        moved = self.turns.compact(trajectory for _, trajectory in self._live.values())
        if moved is not None:
            for slot, _ in self._live.values():
                self.agents.slots[slot].first_turn = moved[int(self.agents.slots[slot].first_turn)]
        slots: dict[str, int] = {}
        for trajectory in start.family:
            number = self._num_arrived
            self._num_arrived += 1
            parent = NONE if trajectory.parent is None else slots[trajectory.parent]
            slot = arrive(
                self.agents,
                number,
                self.turns.place(trajectory),
                len(trajectory.turns),
                parent,
                trajectory.parent_turn or 0,
            )
            slots[trajectory.id] = slot
            self._live[number] = slot, trajectory
            if parent == NONE:
                put(self.agents.due, start.arrival_ns, number, 0, slot)
