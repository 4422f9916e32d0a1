"""Checks: the numbers a report had to show, each with its bound. checks.json is for gates."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

RUN_MISSING = "run missing"


@dataclass(frozen=True, slots=True)
class Check:
    """One number. `value` None: it could not be measured, and the check fails."""

    id: str
    what: str
    value: float | None
    unit: str
    bound: str  # ">= 1.8"
    passed: bool
    note: str = ""
    rows: tuple[str, ...] = ()  # run directories the value was computed from

    def as_json(self) -> dict[str, object]:
        """The row of checks.json. Infinity is not JSON: such a value is null, and the note says so."""
        finite = self.value is None or math.isfinite(self.value)
        note = self.note if finite else f"{self.note}; value is not finite".removeprefix("; ")
        return {
            "id": self.id,
            "what": self.what,
            "value": self.value if finite else None,
            "unit": self.unit,
            "bound": self.bound,
            "pass": self.passed,
            "note": note,
            "rows": list(self.rows),
        }


def at_least(
    id: str,
    what: str,
    value: float | None,
    limit: float,
    *,
    unit: str = "1",
    note: str = "",
    rows: Iterable[str] = (),
) -> Check:
    """value >= limit."""
    passed = value is not None and value >= limit
    return Check(id, what, value, unit, f">= {limit:g}", passed, note, tuple(rows))


def at_most(
    id: str,
    what: str,
    value: float | None,
    limit: float,
    *,
    unit: str = "1",
    note: str = "",
    rows: Iterable[str] = (),
) -> Check:
    """value <= limit."""
    passed = value is not None and value <= limit
    return Check(id, what, value, unit, f"<= {limit:g}", passed, note, tuple(rows))


def write_checks(checks: Iterable[Check], path: Path) -> None:
    """Write checks.json: a list of objects, in the order given."""
    text = json.dumps([check.as_json() for check in checks], indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
