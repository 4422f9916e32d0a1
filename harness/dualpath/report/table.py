"""A table as text cells, ready for HTML and Markdown, that remember the numbers they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from dualpath.report.digits import three_digits
from dualpath.results.compare import Ratio
from dualpath.results.intervals import Interval

NONE = "–"  # a value that does not exist


class Shown(str):
    """A cell's text that keeps the numbers it was made of, unrounded, by what they are: "" is the value itself in the
    unit of the heading, the others are named beside it ("fraction", "low", "high")."""

    __slots__ = ("numbers",)
    numbers: dict[str, float]

    @classmethod
    def of(cls, text: str, **numbers: float) -> Self:
        """`value=` is the value itself."""
        made = cls(text)
        made.numbers = {"" if name == "value" else name: number for name, number in numbers.items()}
        return made


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
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str | int]],
    note: str = "",
    *,
    is_folded: bool = False,
) -> Table:
    """Build a Table; every row must have a cell per column."""
    assert all(len(row) == len(columns) for row in rows), title
    cells = tuple(tuple(cell if isinstance(cell, str) else shown(cell, ",") for cell in row) for row in rows)
    return Table(title, tuple(columns), cells, note, is_folded)


def shown(value: float | None, form: str) -> str:
    """A number as a format specification has it: "g", "+.1%"."""
    if value is None:
        return NONE
    text = "∞" if value == float("inf") else format(value, form)
    return Shown.of(text, fraction=value) if form.endswith("%") else Shown.of(text, value=value)


def number(value: float | None, scale: float = 1.0) -> str:
    """With three digits."""
    if value is None or value == float("inf"):
        return shown(value, "g")
    return Shown.of(three_digits(value * scale), value=value * scale)


def per_cent(value: float | None) -> str:
    return shown(value, ".1%")


def times(interval: Interval | None) -> str:
    """A ratio with its interval: 1.95× [1.90, 1.97]; [–]: too few for one."""
    if interval is None:
        return NONE
    if not interval.is_known:
        return Shown.of(f"{interval.value:.2f}× [{NONE}]", value=interval.value)
    value, low, high = interval.value, interval.low, interval.high
    return Shown.of(f"{value:.2f}× [{low:.2f}, {high:.2f}]", value=value, low=low, high=high)


def ratio(found: Ratio | None) -> str:
    """A ratio of JCTs, with its range where there are repeats: 1.95× (1.94–1.96)."""
    if found is None:
        return NONE
    value, low, high = found.value, found.low, found.high
    if found.pairs < 2:
        return Shown.of(f"{value:.2f}×", value=value)
    return Shown.of(f"{value:.2f}× ({low:.2f}–{high:.2f})", value=value, low=low, high=high)


def mega(num_bytes: float | None) -> str:
    return shown(None if num_bytes is None else num_bytes / 1e6, ",.1f")
