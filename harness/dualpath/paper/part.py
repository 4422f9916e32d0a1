"""What one figure or table of the paper comes to: its numbers, checks, figures and tables."""

from __future__ import annotations

from dataclasses import dataclass

from dualpath.paper.numbers import Number
from dualpath.report.figure import Figure
from dualpath.report.table import Table
from dualpath.results.checks import Check


@dataclass(frozen=True, slots=True)
class Part:
    """A section of the page. Every number is a check as well; `checks` are those over several numbers."""

    id: str  # as in its numbers' ids: fig7, table1
    title: str
    text: str
    numbers: tuple[Number, ...] = ()
    checks: tuple[Check, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()

    @property
    def all_checks(self) -> tuple[Check, ...]:
        return (*self.checks, *(number.as_check() for number in self.numbers))
