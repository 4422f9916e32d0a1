"""The turns of the trajectories under way, as one array: what compiled code reads of a trace.

Trajectories with the same turns (an agent and its cold copies) share their rows.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dualpath.core.records import Records, records
from dualpath.core.trajectory import Trajectory, Turn

TURN = np.dtype(
    [(name, np.int64) for name in ("append_tokens", "prompt_tokens", "generate_tokens", "planned_hit_tokens", "gap_ns")]
)


class TurnTable:
    """`rows` [used, and room] TURN. A trajectory's turns are consecutive."""

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self.rows: Records = records(TURN, 1024)
        self._used = 0
        self._after_compaction = 1024
        self._places: dict[int, tuple[int, tuple[Turn, ...]]] = {}  # id of the turns -> first row, the turns

    def place(self, trajectory: Trajectory) -> int:
        """First row of a trajectory's turns, which are added where they are not there."""
        known = self._places.get(id(trajectory.turns))
        if known is not None:
            return known[0]
        first, end = self._used, self._used + len(trajectory.turns)
        if end > len(self.rows):
            self.rows = np.concatenate([self.rows, records(TURN, max(end, len(self.rows)))]).view(np.recarray)
        self.rows[first:end] = list(
            zip(
                [turn.append_tokens for turn in trajectory.turns],
                trajectory.prompt_tokens(),
                [turn.generate_tokens for turn in trajectory.turns],
                trajectory.planned_hit_tokens(self._block_tokens),
                [turn.gap_ns for turn in trajectory.turns],
                strict=True,
            )
        )
        self._used = end
        self._places[id(trajectory.turns)] = first, trajectory.turns
        return first

    def compact(self, live: Iterable[Trajectory]) -> dict[int, int] | None:
        """Drop the rows of trajectories that are not live, where that is most of them. Returns where each first row
        went, None where nothing moved."""
        if self._used < 2 * self._after_compaction:
            return None
        rows, places = self.rows, self._places
        self.rows, self._used, self._places = records(TURN, len(rows)), 0, {}
        moved: dict[int, int] = {}
        for turns in {id(trajectory.turns): trajectory.turns for trajectory in live}.values():
            first, _ = places[id(turns)]
            end = self._used + len(turns)
            self.rows[self._used : end] = rows[first : first + len(turns)]
            self._places[id(turns)] = self._used, turns
            moved[first] = self._used
            self._used = end
        self._after_compaction = max(1024, self._used)
        return moved
