"""Raw rows to Parquet, a row group at a time: memory does not grow with the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dualpath.core.errors import RunError

_GROUP_ROWS = 16_384


class TableWriter:
    """One table of a run directory. Rows are written when a group is full, the rest by `close`."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._schema = schema
        self._rows: list[dict[str, Any]] = []
        self._parquet: pq.ParquetWriter | None = None

    def append(self, row: dict[str, Any]) -> None:
        """Raises RunError where the file cannot be written."""
        self._rows.append(row)
        if len(self._rows) == _GROUP_ROWS:
            self._flush()

    def append_table(self, table: pa.Table) -> None:
        """A row group of its own. Raises RunError."""
        if self._rows:
            self._flush()
        self._write(table)

    def close(self) -> None:
        """Write what is left; a table without rows is a file, too. Raises RunError."""
        parquet = self._flush()
        try:
            parquet.close()
        except OSError as error:
            raise self._error(error) from None

    def _flush(self) -> pq.ParquetWriter:
        parquet = self._write(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []
        return parquet

    def _write(self, table: pa.Table) -> pq.ParquetWriter:
        try:
            if self._parquet is None:
                self._parquet = pq.ParquetWriter(self._path, self._schema, compression="zstd")
            self._parquet.write_table(table)
        except OSError as error:
            raise self._error(error) from None
        return self._parquet

    def _error(self, error: OSError) -> RunError:
        return RunError(f"{self._path}: rows cannot be written: {error}; free space, or choose another -o")
