"""One number of the paper beside ours: how far apart they are, and whether that is near enough.

A number is a *fit* where the simulator's constants were chosen on it, else a *prediction*. A number missed stays in the
report with what we believe the cause to be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dualpath.report.table import Table, shown, table
from dualpath.report.table import number as three
from dualpath.results.checks import RUN_MISSING, Check, at_most
from dualpath.results.percentiles import nearest_rank

Verdict = Literal["met", "missed", "not run"]
Scale = Literal["relative", "points"]


@dataclass(frozen=True, slots=True)
class Number:
    """`scale` says what error and tolerance are: relative to theirs, or the difference itself (of shares)."""

    id: str
    what: str
    ours: float | None
    theirs: float
    tolerance: float
    unit: str = "s"
    scale: Scale = "relative"
    is_fit: bool = False
    note: str = ""  # of a number that could not be computed: why
    rows: tuple[str, ...] = ()  # run directories
    belief: str = ""  # why it is missed, as far as we know

    @property
    def error(self) -> float | None:
        """Signed: above 0 where ours is larger."""
        if self.ours is None:
            return None
        return self.ours / self.theirs - 1 if self.scale == "relative" else self.ours - self.theirs

    @property
    def verdict(self) -> Verdict:
        if self.error is None:
            return "not run"
        return "met" if abs(self.error) <= self.tolerance else "missed"

    @property
    def is_prediction(self) -> bool:
        """Counts in the statistics over predictions, which are over relative errors."""
        return not self.is_fit and self.scale == "relative" and self.ours is not None

    def as_check(self) -> Check:
        error = self.error
        words = [f"ours {_shown(self.ours)}, theirs {_shown(self.theirs)}{'' if self.unit == '1' else f' {self.unit}'}"]
        words += ["fit, not a prediction"] * self.is_fit
        words += [text for text in (self.note, self.belief if self.verdict == "missed" else "") if text]
        return at_most(
            self.id,
            f"{self.what}: {'|ours / theirs - 1|' if self.scale == 'relative' else '|ours - theirs|'}",
            None if error is None else abs(error),
            self.tolerance,
            unit="1" if self.scale == "relative" else self.unit,
            note="; ".join(words) if self.ours is not None else self.note or RUN_MISSING,
            rows=self.rows,
        )


def belief_of(id: str, beliefs: Mapping[str, str]) -> str:
    """What is believed of a number: of the longest key that its id starts with."""
    found = max((key for key in beliefs if id == key or id.startswith(f"{key}.")), key=len, default=None)
    return "" if found is None else beliefs[found]


def numbers_table(title: str, numbers: Iterable[Number], note: str = "", *, is_folded: bool = True) -> Table:
    rows = [
        (
            number.what,
            _shown(number.ours),
            _shown(number.theirs),
            number.unit if number.unit != "1" else "",
            _error(number),
            shown(number.tolerance, ".0%" if number.scale == "relative" else "g"),
            _verdict(number),
            (number.belief if number.verdict == "missed" else "") or number.note,
        )
        for number in numbers
    ]
    columns = ("number|", "ours", "theirs", "unit|", "error", "tolerance", "verdict|", "why, as far as known|")
    return table(title, columns, rows, note, is_folded=is_folded and len(rows) > 8)


def absolute_errors(numbers: Iterable[Number]) -> list[float]:
    return [abs(number.error) for number in numbers if number.error is not None]


def percentile(values: Sequence[float], share: float) -> float | None:
    """Nearest rank, never interpolated; None of nothing."""
    return nearest_rank(values, share) if values else None


def spread_check(id: str, what: str, numbers: Sequence[Number], share: float, limit: float) -> Check:
    """That so large a share of the numbers is at most `limit` off. Fails where one of them was not run."""
    missing = [number for number in numbers if number.ours is None]
    value = None if missing else percentile(absolute_errors(numbers), share)
    note = f"{len(numbers)} numbers" if not missing else f"{RUN_MISSING}: {len(missing)} of {len(numbers)} numbers"
    rows = dict.fromkeys(row for number in numbers for row in number.rows)
    return at_most(id, what, value, limit, note=note, rows=rows)


def _verdict(number: Number) -> str:
    sign = "✓" if number.verdict == "met" else "✗"
    return f"{sign} {number.verdict}" + (" (fit)" if number.is_fit else "")


def _error(number: Number) -> str:
    return shown(number.error, "+.1%" if number.scale == "relative" else "+.1f")


def _shown(value: float | None) -> str:
    if value is None or value == 0:
        return shown(value, "g")
    return shown(value, ",.0f") if 1000 <= abs(value) < 1e6 else three(value)
