"""What makes a row of a trace legal, checked one row at a time in file order.

Reader, writer and `validate` share this one checker. It remembers the ids seen so far (to find a trajectory
that comes back) and, of everything else, only the current trajectory and the family it belongs to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from dualpath.trace.schema import MAX_GAP_NS, MAX_ID_CHARS, MAX_TOKENS


class Row(NamedTuple):
    """One Parquet row, as read: any column may hold null."""

    trajectory: str | None
    turn: int | None
    append_tokens: int | None
    generate_tokens: int | None
    keep_tokens: int | None = None
    arrival_ns: int | None = None
    gap_ns: int | None = None
    parent_trajectory: str | None = None
    parent_turn: int | None = None
    hash_shared: int | None = None
    hash_new: list[int] | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with one row."""

    row: int  # counted from 0
    trajectory: str
    turn: int | None
    column: str
    value: str
    limit: str
    remedy: str

    def describe(self, path: str) -> str:
        where = f"{path}: row {self.row} (trajectory {self.trajectory!r}, turn {self.turn})"
        return f"{where}: {self.column} is {self.value}; {self.limit}. {self.remedy}"


_FIX_COUNT = "Correct the row, drop the trajectory, or import the source again."
_FIX_ORDER = "Sort the rows by trajectory and turn, or import the source again."
_FIX_PARENT = "Place sub-agents right after their parent, or clear parent_trajectory and parent_turn."
_FIX_HASH = "Import the source again, or clear hash_shared and hash_new in the whole file."


class RowChecker:
    """Feed every row in file order to `check`; it yields what is wrong with each."""

    def __init__(self, hash_block_tokens: int | None) -> None:
        self._hash_block_tokens = hash_block_tokens
        self._row = -1
        self._seen: set[str] = set()
        self._family: dict[str, int] = {}  # id -> turns so far: the current root and its sub-agents
        self._current: str | None = None
        self._parent: tuple[str | None, int | None] = (None, None)
        self._next_turn = 0
        self._context_tokens = 0
        self._num_hashes = 0
        self._arrival_ns: int | None = None

    @property
    def num_trajectories(self) -> int:
        """Seen so far."""
        return len(self._seen)

    def check(self, row: Row) -> Iterator[Problem]:
        self._row += 1
        starts = row.trajectory != self._current or row.trajectory is None
        if starts:
            yield from self._start(row)
        elif (row.parent_trajectory, row.parent_turn) != self._parent:
            value = f"{row.parent_trajectory!r}, {row.parent_turn}"
            limit = f"must be {self._parent[0]!r}, {self._parent[1]} as in the trajectory's first row"
            yield self._problem(row, "parent_trajectory, parent_turn", value, limit, _FIX_PARENT)
        if row.turn != self._next_turn:
            limit = f"must be {self._next_turn} (0, 1, 2, ... within a trajectory)"
            yield self._problem(row, "turn", row.turn, limit, _FIX_ORDER)
        yield from self._check_counts(row)
        yield from self._check_times(row)
        if row.hash_shared is not None or row.hash_new is not None:
            yield from self._check_hashes(row)
        self._advance(row)

    def _start(self, row: Row) -> Iterator[Problem]:
        self._current = row.trajectory
        self._parent = (row.parent_trajectory, row.parent_turn)
        self._next_turn = self._context_tokens = self._num_hashes = 0
        self._arrival_ns = None
        if not row.trajectory or len(row.trajectory) > MAX_ID_CHARS:
            limit = f"must be a name of 1 to {MAX_ID_CHARS} characters"
            yield self._problem(row, "trajectory", row.trajectory, limit, _FIX_COUNT)
            return
        if row.trajectory in self._seen:
            limit = "was used before; rows of one trajectory must be contiguous and its id unique"
            yield self._problem(row, "trajectory", row.trajectory, limit, _FIX_ORDER)
        self._seen.add(row.trajectory)
        if row.parent_trajectory is None:
            self._family = {}
            if row.parent_turn is not None:
                limit = "must be null where parent_trajectory is null"
                yield self._problem(row, "parent_turn", row.parent_turn, limit, _FIX_PARENT)
        elif row.parent_trajectory not in self._family or row.parent_trajectory == row.trajectory:
            limit = "must name the trajectory this one follows, or another sub-agent of it"
            yield self._problem(row, "parent_trajectory", row.parent_trajectory, limit, _FIX_PARENT)
        else:
            turns = self._family[row.parent_trajectory]
            if row.parent_turn is None or not 0 <= row.parent_turn < turns:
                limit = f"must be 0 to {turns - 1}, a turn of {row.parent_trajectory!r}"
                yield self._problem(row, "parent_turn", row.parent_turn, limit, _FIX_PARENT)

    def _check_counts(self, row: Row) -> Iterator[Problem]:
        if row.append_tokens is None or not 1 <= row.append_tokens <= MAX_TOKENS:
            limit = f"must be 1 to {MAX_TOKENS:,}"
            yield self._problem(row, "append_tokens", row.append_tokens, limit, _FIX_COUNT)
        if row.generate_tokens is None or not 1 <= row.generate_tokens <= MAX_TOKENS:
            limit = f"must be 1 to {MAX_TOKENS:,}"
            yield self._problem(row, "generate_tokens", row.generate_tokens, limit, _FIX_COUNT)
        if row.keep_tokens is not None and not 0 <= row.keep_tokens <= self._context_tokens:
            limit = f"must be 0 to {self._context_tokens:,}, the previous turn's prompt + output"
            yield self._problem(row, "keep_tokens", row.keep_tokens, limit, _FIX_COUNT)
        total = self._prompt_tokens(row) + (row.generate_tokens or 0)
        if total > MAX_TOKENS and (row.append_tokens or 0) <= MAX_TOKENS:
            limit = f"brings the context to {total:,}, over {MAX_TOKENS:,}"
            yield self._problem(row, "append_tokens", row.append_tokens, limit, _FIX_COUNT)

    def _check_times(self, row: Row) -> Iterator[Problem]:
        if row.gap_ns is not None and not 0 <= row.gap_ns <= MAX_GAP_NS:
            limit = f"must be 0 to {MAX_GAP_NS:,} (a year)"
            yield self._problem(row, "gap_ns", row.gap_ns, limit, _FIX_COUNT)
        if row.arrival_ns is not None and row.arrival_ns < (self._arrival_ns or 0):
            limit = f"must be at least {self._arrival_ns or 0:,}, the previous turn's"
            yield self._problem(row, "arrival_ns", row.arrival_ns, limit, _FIX_ORDER)

    def _check_hashes(self, row: Row) -> Iterator[Problem]:
        if self._hash_block_tokens is None:
            limit = "must be null: the file's metadata names no hash_block_tokens"
            yield self._problem(row, "hash_new", "set", limit, _FIX_HASH)
            return
        if row.hash_shared is None or row.hash_new is None:
            limit = "hash_shared and hash_new must both be set or both be null"
            yield self._problem(row, "hash_shared, hash_new", "half null", limit, _FIX_HASH)
            return
        if not 0 <= row.hash_shared <= self._num_hashes:
            limit = f"must be 0 to {self._num_hashes}, the previous turn's number of block hashes"
            yield self._problem(row, "hash_shared", row.hash_shared, limit, _FIX_HASH)
        blocks = row.hash_shared + len(row.hash_new)
        most = -(-self._prompt_tokens(row) // self._hash_block_tokens)
        if blocks > most:
            limit = f"must be at most {most}: the prompt has no more blocks of {self._hash_block_tokens}"
            yield self._problem(row, "hash_new", f"{blocks} block hashes", limit, _FIX_HASH)

    def _advance(self, row: Row) -> None:
        prompt = self._prompt_tokens(row)
        self._next_turn = (self._next_turn if row.turn is None else row.turn) + 1
        self._context_tokens = min(MAX_TOKENS, max(0, prompt + (row.generate_tokens or 0)))
        if row.hash_new is not None:
            self._num_hashes = (row.hash_shared or 0) + len(row.hash_new)
        self._arrival_ns = row.arrival_ns if row.arrival_ns is not None else self._arrival_ns
        if row.trajectory:
            self._family[row.trajectory] = self._next_turn

    def _prompt_tokens(self, row: Row) -> int:
        kept = self._context_tokens if row.keep_tokens is None else row.keep_tokens
        return kept + (row.append_tokens or 0)

    def _problem(self, row: Row, column: str, value: object, limit: str, remedy: str) -> Problem:
        name = row.trajectory if row.trajectory is not None else "null"
        shown = "null" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
        return Problem(self._row, name, row.turn, column, shown, limit, remedy)
