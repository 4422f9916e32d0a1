"""A table as text cells, ready for HTML and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dualpath.report.style import three_digits
from dualpath.results.compare import Ratio
from dualpath.results.intervals import Interval

NONE = "–"  # a value that does not exist


@dataclass(frozen=True, slots=True)
class Table:
    """Columns whose name ends in a pipe hold text (left), the others numbers (right). `note`: how to read it.
    `is_folded`: long, closed at first."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    is_folded: bool = False

    def is_text(self, column: int) -> bool:
        return self.columns[column].endswith("|")

    def heading(self, column: int) -> str:
        return self.columns[column].removesuffix("|")


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str = "", *, is_folded: bool = False
) -> Table:
    """Build a Table; every row must have a cell per column."""
    assert all(len(row) == len(columns) for row in rows), title
    return Table(title, tuple(columns), tuple(tuple(row) for row in rows), note, is_folded)


def number(value: float | None, scale: float = 1.0) -> str:
    return NONE if value is None else "∞" if value == float("inf") else three_digits(value * scale)


def per_cent(value: float | None) -> str:
    return NONE if value is None else f"{value:.1%}"


def times(interval: Interval | None) -> str:
    """A ratio with its interval: 1.95× [1.90, 1.97]."""
    return NONE if interval is None else f"{interval.value:.2f}× [{interval.low:.2f}, {interval.high:.2f}]"


def ratio(found: Ratio | None) -> str:
    """A ratio of JCTs, with its range where there are repeats: 1.95× (1.94–1.96)."""
    if found is None:
        return NONE
    return f"{found.value:.2f}×" + (f" ({found.low:.2f}–{found.high:.2f})" if found.pairs > 1 else "")


def mega(num_bytes: float | None) -> str:
    return NONE if num_bytes is None else f"{num_bytes / 1e6:,.1f}"
