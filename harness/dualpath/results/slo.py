"""A service level objective: latencies that a point of a sweep must not exceed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from dualpath.core.errors import PlanError

LATENCIES = tuple(f"{tag}{part}" for tag in ("ttft", "ttst", "tpot") for part in ("", "_p50", "_p99"))
_UNITS_NS = {"s": 1e9, "ms": 1e6, "us": 1e3}


@dataclass(frozen=True, slots=True)
class Slo:
    """Limits in ns by latency; one without a suffix is the mean over all turns."""

    limits_ns: tuple[tuple[str, float], ...]

    def is_met(self, row: Mapping[str, float | None]) -> bool:
        """row: latencies as `TAG_ns`. One that no turn has (TPOT of single tokens) is met; of no turns at
        all there is nothing to ask."""
        return all((row[f"{tag}_ns"] or 0.0) <= limit_ns for tag, limit_ns in self.limits_ns)

    @property
    def text(self) -> str:
        return ", ".join(f"{tag} ≤ {_shown(limit_ns)}" for tag, limit_ns in self.limits_ns)


def _shown(value_ns: float) -> str:
    return f"{value_ns / 1e9:g} s" if value_ns >= 1e9 else f"{value_ns / 1e6:g} ms"


def parse_slo(text: str) -> Slo:
    """'ttft=4s,tpot=50ms' -> Slo. Raises PlanError."""
    limits: dict[str, float] = {}
    for part in text.split(","):
        tag, _, value = (word.strip() for word in part.partition("="))
        if tag not in LATENCIES:
            raise PlanError(f"--slo {part.strip()!r}: {tag!r} is no latency; they are {', '.join(LATENCIES)}")
        if tag in limits:
            raise PlanError(f"--slo {text!r} limits {tag} twice; give one limit for each latency")
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|ms|us)", value)
        if match is None:
            raise PlanError(
                f"--slo {part.strip()!r}: {value!r} is no time; write a number with a unit, such as {tag}=4s"
            )
        limits[tag] = float(match[1]) * _UNITS_NS[match[2]]
        if not 0 < limits[tag] < 1e15:
            raise PlanError(f"--slo {part.strip()!r}: the limit must be above 0 and below 11 days")
    return Slo(tuple(limits.items()))
