"""Which turn is due when.

Offline: all trajectories start together. Online and recorded: each has an arrival time. In all three, a turn is due
when the turn before it ended, plus its gap times a gap scale; a sub-agent starts when its parent's turn has
ended, and the parent's next turn waits for its sub-agents.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from dualpath.core.trajectory import Trajectory


@dataclass(frozen=True, slots=True, order=True)
class DueTurn:
    """Turns that fall due together are served in order of trajectory, then turn."""

    due_ns: int
    trajectory: int
    turn: int


class Feed:
    """Releases due turns; is told when turns end.

    trajectories: in order; a DueTurn names one by its index here.
    arrivals_ns: when each root trajectory starts, on the run's clock; entries of sub-agents are ignored.
    gap_scale: factor on every recorded gap; 0 is the paper's replay.
    """

    def __init__(self, trajectories: Sequence[Trajectory], arrivals_ns: Sequence[int], gap_scale: float = 0.0) -> None:
        self._trajectories = trajectories
        self._gap_scale = gap_scale
        index = {trajectory.id: position for position, trajectory in enumerate(trajectories)}
        self._children: dict[tuple[int, int], list[int]] = {}  # (parent, turn) -> sub-agents
        self._parent: dict[int, int] = {}
        # parent -> (sub-agents still running, turn that ended, latest end so far: ends may be told out of order)
        self._waiting: dict[int, tuple[int, int, int]] = {}
        self._due: list[DueTurn] = []
        self._turns_left = sum(len(trajectory.turns) for trajectory in trajectories)
        for position, trajectory in enumerate(trajectories):
            if trajectory.parent is None:
                self._due.append(DueTurn(arrivals_ns[position], position, 0))
                continue
            parent = index[trajectory.parent]
            self._parent[position] = parent
            self._children.setdefault((parent, trajectory.parent_turn or 0), []).append(position)
        heapq.heapify(self._due)

    @property
    def finished(self) -> bool:
        return self._turns_left == 0

    @property
    def next_due_ns(self) -> int | None:
        """Time of the next turn that is already known to fall due, if any."""
        return self._due[0].due_ns if self._due else None

    def due(self, now_ns: int) -> list[DueTurn]:
        """Take the turns due by now, oldest first."""
        turns: list[DueTurn] = []
        while self._due and self._due[0].due_ns <= now_ns:
            turns.append(heapq.heappop(self._due))
        return turns

    def ended(self, trajectory: int, turn: int, end_ns: int) -> None:
        """Note that a turn generated its last token at end_ns; its successors become known."""
        self._turns_left -= 1
        children = self._children.get((trajectory, turn), [])
        for child in children:
            self._push(child, 0, end_ns)
        if children:
            self._waiting[trajectory] = (len(children), turn, end_ns)
            return
        self._continue(trajectory, turn, end_ns)

    def _continue(self, trajectory: int, turn: int, end_ns: int) -> None:
        if turn + 1 < len(self._trajectories[trajectory].turns):
            self._push(trajectory, turn + 1, end_ns)
            return
        parent = self._parent.get(trajectory)
        if parent is None:
            return
        running, parent_turn, latest_ns = self._waiting[parent]
        latest_ns = max(latest_ns, end_ns)
        if running > 1:
            self._waiting[parent] = (running - 1, parent_turn, latest_ns)
            return
        del self._waiting[parent]
        self._continue(parent, parent_turn, latest_ns)

    def _push(self, trajectory: int, turn: int, end_ns: int) -> None:
        gap_ns = int(self._trajectories[trajectory].turns[turn].gap_ns * self._gap_scale)
        heapq.heappush(self._due, DueTurn(end_ns + gap_ns, trajectory, turn))
