"""Read a trace file trajectory by trajectory, in memory that does not grow with the file.

Opening reads the Parquet footer only. Rows are checked while they stream; the first bad one raises.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from dualpath.core.errors import TraceError
from dualpath.core.trajectory import Trajectory, Turn
from dualpath.trace.rows import Row, RowChecker
from dualpath.trace.schema import COLUMNS, META_KEY, SCHEMA_VERSION, TraceMeta, decode_meta

_BATCH_ROWS = 4096
_IMPORT_HINT = "Bring other tables in with: dualpath trace import table PATH -o OUT.parquet"


class TraceFile:
    """An open trace. Use as a context manager; iterate it as often as needed."""

    def __init__(self, path: Path, parquet: pq.ParquetFile, meta: TraceMeta) -> None:
        self.path = path
        self.meta = meta
        self._parquet = parquet

    @classmethod
    def open(cls, path: Path | str) -> TraceFile:
        """Check footer, columns and metadata. Raises TraceError; reads no row."""
        path = Path(path)
        if not path.is_file():
            kind = "is a folder" if path.is_dir() else "does not exist"
            raise TraceError(f"{path}: {kind}; give the path of a trace file (Parquet)")
        if path.stat().st_size == 0:
            raise TraceError(f"{path}: the file has 0 bytes; a trace has at least one turn. Make it again.")
        try:
            parquet = pq.ParquetFile(path)
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise TraceError(
                f"{path}: cannot be read as Parquet ({reason}). It is another format, or was cut off: "
                "import or copy it again."
            ) from error
        try:
            meta = _checked_meta(path, parquet)
        except TraceError:
            parquet.close()
            raise
        return cls(path, parquet, meta)

    @property
    def num_turns(self) -> int:
        return self.meta.num_turns

    @property
    def num_trajectories(self) -> int:
        return self.meta.num_trajectories

    @cached_property
    def sha256(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def rows(self) -> Iterator[Row]:
        """Every row in file order, unchecked."""
        try:
            for group in range(self._parquet.num_row_groups):
                for batch in self._parquet.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group]):
                    yield from map(Row._make, zip(*(c.to_pylist() for c in batch.columns), strict=True))
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise TraceError(
                f"{self.path}: row group {group} of {self._parquet.num_row_groups} is damaged ({reason}). "
                "Import or copy the file again."
            ) from error

    def trajectories(self) -> Iterator[Trajectory]:
        """Trajectories in file order, sub-agents after their parent. Raises TraceError at the first bad row."""
        checker = RowChecker(self.meta.hash_block_tokens)
        first: Row | None = None
        turns: list[Turn] = []
        hashes: tuple[int, ...] | None = None
        for row in self.rows():
            for problem in checker.check(row):
                self._refuse(problem.describe(str(self.path)))
            if first is not None and row.trajectory != first.trajectory:
                yield self._trajectory(first, turns)
                first, turns, hashes = None, [], None
            first = first or row
            if row.hash_new is not None:
                hashes = (hashes or ())[: row.hash_shared] + tuple(row.hash_new)
            turns.append(_turn(row, hashes if row.hash_new is not None else None))
        if first is not None:
            yield self._trajectory(first, turns)
        if checker.num_trajectories != self.num_trajectories:
            self._refuse(
                f"{self.path}: metadata promises {self.num_trajectories:,} trajectories, the rows have "
                f"{checker.num_trajectories:,}; import or synthesize it again."
            )

    def __iter__(self) -> Iterator[Trajectory]:
        return self.trajectories()

    def __enter__(self) -> TraceFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._parquet.close()

    def _refuse(self, message: str) -> NoReturn:
        raise TraceError(f"{message} All problems: dualpath trace validate {self.path}")

    def _trajectory(self, first: Row, turns: list[Turn]) -> Trajectory:
        assert first.trajectory is not None, "the checker lets no unnamed trajectory pass"
        has_hashes = any(turn.block_hashes is not None for turn in turns)
        return Trajectory(
            id=first.trajectory,
            turns=tuple(turns),
            parent=first.parent_trajectory,
            parent_turn=first.parent_turn,
            hash_block_tokens=self.meta.hash_block_tokens if has_hashes else None,
            hash_scope=self.meta.hash_scope if has_hashes else None,
        )


def _turn(row: Row, hashes: tuple[int, ...] | None) -> Turn:
    assert row.append_tokens is not None, "checked"
    assert row.generate_tokens is not None, "checked"
    return Turn(
        append_tokens=row.append_tokens,
        generate_tokens=row.generate_tokens,
        gap_ns=row.gap_ns or 0,
        keep_tokens=row.keep_tokens,
        arrival_ns=row.arrival_ns,
        block_hashes=hashes,
    )


def _checked_meta(path: Path, parquet: pq.ParquetFile) -> TraceMeta:
    """Refuse other schemas, other versions, unknown or missing columns, and empty files."""
    names = parquet.schema_arrow.names
    raw = (parquet.metadata.metadata or {}).get(META_KEY.encode())
    if raw is None:
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        raise TraceError(
            f"{path}: no {META_KEY!r} entry in its Parquet metadata, so it is no trace (columns: {shown}). "
            + _IMPORT_HINT
        )
    try:
        meta = decode_meta(raw)
    except msgspec.DecodeError as error:
        raise TraceError(
            f"{path}: its {META_KEY!r} metadata cannot be understood ({error}); this version reads "
            f"schema version {SCHEMA_VERSION}. Import or synthesize it again."
        ) from error
    if meta.schema_version != SCHEMA_VERSION:
        raise TraceError(
            f"{path}: schema version {meta.schema_version}; this version reads {SCHEMA_VERSION}. "
            "Import or synthesize it again."
        )
    unknown = [name for name in names if name not in COLUMNS.names]
    if unknown:
        raise TraceError(
            f"{path}: unknown column {unknown[0]!r}; the columns are {', '.join(COLUMNS.names)}. "
            "Drop it. " + _IMPORT_HINT
        )
    missing = [name for name in COLUMNS.names if name not in names]
    if missing:
        raise TraceError(f"{path}: column {missing[0]!r} is missing (see traces/SCHEMA.md). " + _IMPORT_HINT)
    for field in COLUMNS:
        found = parquet.schema_arrow.field(field.name).type
        if found != field.type:
            raise TraceError(
                f"{path}: column {field.name!r} has type {found}; it must be {field.type}. " + _IMPORT_HINT
            )
    if names != COLUMNS.names:
        raise TraceError(f"{path}: its columns are in another order than {', '.join(COLUMNS.names)}. Reorder them.")
    if parquet.metadata.num_rows == 0:
        raise TraceError(f"{path}: has 0 rows; a trace has at least one turn. Make it again from a longer source.")
    if meta.num_turns != parquet.metadata.num_rows or not 0 < meta.num_trajectories <= meta.num_turns:
        raise TraceError(
            f"{path}: metadata promises {meta.num_turns:,} turns of {meta.num_trajectories:,} trajectories but "
            f"the file has {parquet.metadata.num_rows:,} rows. It was edited: import or synthesize it again."
        )
    _check_hash_meta(path, meta)
    return meta


def _check_hash_meta(path: Path, meta: TraceMeta) -> None:
    if (meta.hash_block_tokens is None) != (meta.hash_scope is None) or (
        meta.hash_block_tokens is not None and meta.hash_block_tokens < 1
    ):
        raise TraceError(
            f"{path}: metadata has hash_block_tokens {meta.hash_block_tokens} and hash_scope "
            f"{meta.hash_scope}; both must be set (a block of at least 1 token) or both null. Import it again."
        )
