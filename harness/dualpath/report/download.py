"""Tables as files beside the page that shows them: CSV and Parquet, with numbers where cells show numbers."""

from __future__ import annotations

from collections.abc import Container, Sequence
from itertools import chain, count
from pathlib import Path

import polars as pl

from dualpath.report.near import slug
from dualpath.report.sections import Section
from dualpath.report.table import NONE, Shown, Table

FOLDER = "tables"


def file_names(sections: Sequence[Section]) -> dict[str, list[str]]:
    """Section's id -> a name per table, without its ending. Each is used once, and is the same in every report."""
    names: dict[str, list[str]] = {section.id: [] for section in sections}
    taken: set[str] = set()
    for section in sections:
        for table in section.tables:
            own = section.id if table.title == section.title else f"{section.id}-{slug(table.title)}"
            name = _free(own, taken, "-")
            taken.add(name)
            names[section.id].append(name)
    return names


def save(sections: Sequence[Section], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = file_names(sections)
    for section in sections:
        for table, name in zip(section.tables, names[section.id], strict=True):
            found = frame(table)
            found.write_csv(folder / f"{name}.csv")
            found.write_parquet(folder / f"{name}.parquet")


def frame(table: Table) -> pl.DataFrame:
    """A column per number that a column of the table shows: "JCT, s", "gap closed, fraction", "vs basic, low".

    A column where a cell is words stays text. A dash is null.
    """
    columns: dict[str, pl.Series] = {}
    for place in range(len(table.columns)):
        cells = [None if row[place] == NONE else row[place] for row in table.rows]
        heading = table.heading(place) or f"column {place + 1}"
        numbers = [cell.numbers if isinstance(cell, Shown) else {} for cell in cells]
        is_numeric = all(cell is None or isinstance(cell, Shown) for cell in cells) and (
            any(numbers) or not table.is_text(place)
        )
        if not is_numeric:
            texts = [None if cell is None else str(cell) for cell in cells]
            columns[_free(heading, columns, " ")] = pl.Series(texts, dtype=pl.String)
            continue
        for part in dict.fromkeys(part for found in numbers for part in found) or ("",):
            values = [found.get(part) for found in numbers]
            is_whole = any(numbers) and all(value is None or isinstance(value, int) for value in values)
            name = _free(f"{heading}, {part}" if part else heading, columns, " ")
            columns[name] = pl.Series(values, dtype=pl.Int64 if is_whole else pl.Float64, strict=False)
    return pl.DataFrame(columns)


def _free(name: str, taken: Container[str], sign: str) -> str:
    """The name, or the first one counted on from it: columns of a page may share a heading, those of a file may not."""
    return next(each for each in chain((name,), (f"{name}{sign}{k}" for k in count(2))) if each not in taken)
