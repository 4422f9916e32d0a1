"""Write a trace file trajectory by trajectory, in memory that does not grow with the file.

The file appears under its name only when it is complete; a failed or interrupted write leaves nothing.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from dualpath.core.errors import TraceError
from dualpath.core.trajectory import Trajectory
from dualpath.trace.hits import common_prefix
from dualpath.trace.output import check_output
from dualpath.trace.rows import Row, RowChecker
from dualpath.trace.schema import COLUMNS, META_KEY, TraceMeta, encode_meta

_GROUP_ROWS = 16_384
_GROUP_HASHES = 1 << 20  # a row group also ends when this many new block hashes are waiting
_DELTA_CODED = (
    *("turn", "append_tokens", "generate_tokens", "keep_tokens", "arrival_ns", "gap_ns", "parent_turn"),
    *("hash_shared", "hash_new.list.element"),
)


class TraceWriter:
    """Use as a context manager; `write` in file order, sub-agents after their parents."""

    def __init__(self, path: Path | str, meta: TraceMeta) -> None:
        self.path = Path(path)
        self.meta = meta
        self.num_trajectories = 0
        self.num_turns = 0
        self._checker = RowChecker(meta.hash_block_tokens)
        self._rows: list[Row] = []
        self._waiting_hashes = 0
        self._partial = self.path.with_name(self.path.name + ".partial")
        self._parquet: pq.ParquetWriter | None = None

    def __enter__(self) -> TraceWriter:
        check_output(self.path)
        try:
            self._parquet = pq.ParquetWriter(
                self._partial,
                COLUMNS,
                compression="zstd",
                compression_level=9,
                use_dictionary=["trajectory", "parent_trajectory"],  # type: ignore[arg-type]  # stubs know bool only
                column_encoding=dict.fromkeys(_DELTA_CODED, "DELTA_BINARY_PACKED"),
                store_schema=False,
            )
        except OSError as error:
            raise TraceError(f"{self.path}: cannot be written ({error}); choose another place") from error
        return self

    def write(self, trajectory: Trajectory) -> None:
        """Append one trajectory. Raises TraceError where a row would not be legal to read back."""
        if not trajectory.turns:
            raise TraceError(f"{self.path}: trajectory {trajectory.id!r} has 0 turns; drop it")
        self._check_hash_kind(trajectory)
        for row in _rows(trajectory, "gap_ns" not in self.meta.absent):
            for problem in self._checker.check(row):
                raise TraceError(problem.describe(str(self.path)))
            self._rows.append(row)
            self._waiting_hashes += len(row.hash_new or ())
        self.num_trajectories += 1
        self.num_turns += len(trajectory.turns)
        if len(self._rows) >= _GROUP_ROWS or self._waiting_hashes >= _GROUP_HASHES:
            self._flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """A file that was there before stays unless this one is whole."""
        assert self._parquet is not None, "entered"
        try:
            if kind is None:
                self._finish(self._parquet)
                self._parquet.close()
                self._partial.replace(self.path)
        except OSError as failure:
            raise self._unwritable(failure) from failure
        finally:
            with contextlib.suppress(OSError):  # of a file that is given up
                self._parquet.close()
            self._partial.unlink(missing_ok=True)

    def _finish(self, parquet: pq.ParquetWriter) -> None:
        if not self.num_turns:
            raise TraceError(f"{self.path}: nothing to write: the source held no usable trajectory")
        if self._rows:
            self._flush()
        meta = msgspec.structs.replace(self.meta, num_trajectories=self.num_trajectories, num_turns=self.num_turns)
        parquet.add_key_value_metadata({META_KEY: encode_meta(meta).decode()})

    def _check_hash_kind(self, trajectory: Trajectory) -> None:
        found = (trajectory.hash_block_tokens, trajectory.hash_scope)
        promised = (self.meta.hash_block_tokens, self.meta.hash_scope)
        if found not in (promised, (None, None)):
            raise TraceError(
                f"{self.path}: trajectory {trajectory.id!r} has block hashes of (tokens, scope) {found}, "
                f"the file {promised}; one file holds one kind. Write two files."
            )

    def _unwritable(self, error: OSError) -> TraceError:
        return TraceError(f"{self.path}: cannot be written ({error}); free space or choose another place")

    def _flush(self) -> None:
        assert self._parquet is not None, "entered"
        columns = zip(*self._rows, strict=True)
        arrays = [pa.array(c, type=f.type) for c, f in zip(columns, COLUMNS, strict=True)]
        try:
            self._parquet.write_table(pa.Table.from_arrays(arrays, schema=COLUMNS), row_group_size=1 << 30)
        except OSError as error:
            raise self._unwritable(error) from error
        self._rows = []
        self._waiting_hashes = 0


def _rows(trajectory: Trajectory, has_gaps: bool) -> list[Row]:
    rows: list[Row] = []
    previous: tuple[int, ...] = ()
    for index, turn in enumerate(trajectory.turns):
        shared: int | None = None
        new: list[int] | None = None
        if turn.block_hashes is not None:
            shared = common_prefix(previous, turn.block_hashes)
            new = list(turn.block_hashes[shared:])
            previous = turn.block_hashes
        rows.append(
            Row(
                trajectory=trajectory.id,
                turn=index,
                append_tokens=turn.append_tokens,
                generate_tokens=turn.generate_tokens,
                keep_tokens=turn.keep_tokens,
                arrival_ns=turn.arrival_ns,
                gap_ns=turn.gap_ns if has_gaps else None,
                parent_trajectory=trajectory.parent,
                parent_turn=trajectory.parent_turn,
                hash_shared=shared,
                hash_new=new,
            )
        )
    return rows
