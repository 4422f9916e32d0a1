"""The paper's own numbers, read from reports/paper/*.csv (ORIGIN.md there says where each comes from)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from dualpath.core.errors import RunError


@dataclass(frozen=True, slots=True)
class Theirs:
    """The folder of CSV files."""

    folder: Path

    def table(self, name: str) -> pl.DataFrame:
        """Raises RunError where the file cannot be read."""
        path = self.folder / f"{name}.csv"
        try:
            return pl.read_csv(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise RunError(f"{path}: the paper's numbers cannot be read: {str(error).splitlines()[0]}") from None
