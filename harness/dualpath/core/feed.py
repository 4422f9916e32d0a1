"""Which turn is due when.

Offline: all trajectories start together. Online and recorded: each has an arrival time. In all three, a turn is due
when the turn before it ended, plus its gap times a gap scale; a sub-agent starts when its parent's turn has
ended, and the parent's next turn waits for its sub-agents.

Trajectories are taken when they arrive and dropped when they have ended: memory follows the agents that run, not the
length of the trace.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from dualpath.core.trajectory import Trajectory


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


@dataclass(slots=True)
class _Agent:
    """A trajectory that has arrived and not ended."""

    trajectory: Trajectory
    parent: int | None
    sub_agents: dict[int, list[int]] = field(default_factory=dict)  # turn -> sub-agents that its end starts
    num_running: int = 0  # sub-agents it waits for
    waiting_turn: int = 0  # the turn that started them
    latest_end_ns: int = 0  # of that turn and its sub-agents so far: ends may be told out of order


class Feed:
    """Releases due turns; is told when turns end.

    starts: in order of arrival; the next one is taken only when it is due.
    gap_scale: factor on every recorded gap; 0 is the paper's replay.
    """

    def __init__(self, starts: Iterable[Start], gap_scale: float = 0.0) -> None:
        self._starts = iter(starts)
        self._next_start = next(self._starts, None)
        self._gap_scale = gap_scale
        self._agents: dict[int, _Agent] = {}
        self._num_arrived = 0
        self._due: list[DueTurn] = []

    @property
    def finished(self) -> bool:
        return not self._agents and self._next_start is None

    @property
    def num_live(self) -> int:
        """Trajectories that have arrived and not ended."""
        return len(self._agents)

    @property
    def next_due_ns(self) -> int | None:
        """Time of the next turn that is already known to fall due, if any."""
        times_ns = [due.due_ns for due in self._due[:1]]
        if self._next_start is not None:
            times_ns.append(self._next_start.arrival_ns)
        return min(times_ns, default=None)

    def trajectory(self, number: int) -> Trajectory:
        """The trajectory that a DueTurn names; known until its last turn has ended."""
        return self._agents[number].trajectory

    def due(self, now_ns: int) -> list[DueTurn]:
        """Take the turns due by now, oldest first."""
        while self._next_start is not None and self._next_start.arrival_ns <= now_ns:
            self._arrive(self._next_start)
        turns: list[DueTurn] = []
        while self._due and self._due[0].due_ns <= now_ns:
            turns.append(heapq.heappop(self._due))
        return turns

    def ended(self, trajectory: int, turn: int, end_ns: int) -> None:
        """Note that a turn generated its last token at end_ns; its successors become known."""
        agent = self._agents[trajectory]
        sub_agents = agent.sub_agents.pop(turn, [])
        if not sub_agents:
            self._go_on(trajectory, turn, end_ns)
            return
        agent.num_running, agent.waiting_turn, agent.latest_end_ns = len(sub_agents), turn, end_ns
        for number in sub_agents:
            self._push(number, 0, end_ns)

    def _arrive(self, start: Start) -> None:
        numbers: dict[str, int] = {}
        for trajectory in start.family:
            number = numbers[trajectory.id] = self._num_arrived
            self._num_arrived += 1
            parent = None if trajectory.parent is None else numbers[trajectory.parent]
            self._agents[number] = _Agent(trajectory, parent)
            if parent is None:
                heapq.heappush(self._due, DueTurn(start.arrival_ns, number, 0))
            else:
                self._agents[parent].sub_agents.setdefault(trajectory.parent_turn or 0, []).append(number)
        self._next_start = next(self._starts, None)
        assert self._next_start is None or self._next_start.arrival_ns >= start.arrival_ns, "starts come in order"

    def _go_on(self, number: int, turn: int, end_ns: int) -> None:
        """A turn and all it waited for have ended: the next turn, or the end of the trajectory."""
        agent = self._agents[number]
        if turn + 1 < len(agent.trajectory.turns):
            self._push(number, turn + 1, end_ns)
            return
        del self._agents[number]
        if agent.parent is None:
            return
        parent = self._agents[agent.parent]
        parent.latest_end_ns = max(parent.latest_end_ns, end_ns)
        parent.num_running -= 1
        if not parent.num_running:
            self._go_on(agent.parent, parent.waiting_turn, parent.latest_end_ns)

    def _push(self, number: int, turn: int, end_ns: int) -> None:
        gap_ns = int(self._agents[number].trajectory.turns[turn].gap_ns * self._gap_scale)
        heapq.heappush(self._due, DueTurn(end_ns + gap_ns, number, turn))
