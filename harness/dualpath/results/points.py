"""What a sweep over clusters found: one row per point and arm, and what the rows of one point say together.

Not aware of how a row came about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import polars as pl
import polars.exceptions

from dualpath.core.errors import RunError
from dualpath.results.binding import CANDIDATES, Binding, binding
from dualpath.results.metrics import NS_PER_S
from dualpath.results.slo import LATENCIES, Slo

BASELINE, BOUND = "layerwise", "oracle"
PAYS_FROM = 1.05  # a smaller gain is not worth another path; seeds of a trace move a JCT by half a per cent
NEVER = "never meets the SLO"
MEASURES = {"jct": "JCT", "ttft": "mean TTFT"}  # offline, online

NUMBERS = ("jct", "trajectory_jct", *LATENCIES)
SCHEMA = pl.Schema(
    {
        "prefill_nodes": pl.Int64(),
        "decode_nodes": pl.Int64(),
        "snic_bytes_per_s": pl.Float64(),  # null: native
        "cnic_bytes_per_s": pl.Float64(),
        "arm": pl.String(),
        "status": pl.String(),  # ok | unfit: this cluster cannot serve the trace | void: the run failed
        "error": pl.String(),
        "turns": pl.Int64(),
        "events": pl.Int64(),  # of the simulation
        **{f"{tag}_ns": pl.Float64() for tag in NUMBERS},
        **{f"share_{candidate}": pl.Float64() for candidate in CANDIDATES},
    }
)
Row = dict[str, Any]  # of SCHEMA


class Point(NamedTuple):
    """Where in a sweep. Rates are of one NIC, each direction; None: native."""

    prefill_nodes: int
    decode_nodes: int
    snic_bytes_per_s: float | None
    cnic_bytes_per_s: float | None

    @property
    def nodes(self) -> str:
        return f"{self.prefill_nodes}P{self.decode_nodes}D"

    @property
    def text(self) -> str:
        return f"{self.nodes}, SNIC {rate_text(self.snic_bytes_per_s)}, CNIC {rate_text(self.cnic_bytes_per_s)}"


def rate_text(bytes_per_s: float | None) -> str:
    return "native" if bytes_per_s is None else f"{bytes_per_s * 8e-9:.4g} Gbit/s"


def point_of(row: Mapping[str, Any]) -> Point:
    return Point(*(row[name] for name in SCHEMA.names()[:4]))


@dataclass(frozen=True)
class Finding:
    """What the arms did at one point."""

    point: Point
    rows: Mapping[str, Row]  # by arm; one that was not simulated (yet) is missing
    measure: Literal["jct", "ttft"]
    slo: Slo | None = None

    def seconds(self, arm: str) -> float | None:
        """Of the measure; None where the arm did not run."""
        row = self._ok(arm)
        return None if row is None else float(row[f"{self.measure}_ns"]) / NS_PER_S

    def ratio(self, arm: str) -> float | None:
        """Baseline / arm: above 1, the arm is faster."""
        baseline, own = self.seconds(BASELINE), self.seconds(arm)
        return baseline / own if baseline is not None and own else None

    def binding(self, arm: str) -> Binding | None:
        row = self._ok(arm)
        return None if row is None else binding({name: float(row[f"share_{name}"]) for name in CANDIDATES})

    def meets(self, arm: str) -> bool:
        row = self._ok(arm)
        return row is not None and self.slo is not None and self.slo.is_met(row)

    @property
    def challengers(self) -> list[str]:
        return [arm for arm in self.rows if arm not in (BASELINE, BOUND)]

    @property
    def gain(self) -> float | None:
        """Of the best arm that loads another way than the baseline."""
        ratios = [ratio for arm in self.challengers if (ratio := self.ratio(arm)) is not None]
        return max(ratios, default=None)

    @property
    def pays(self) -> bool:
        """Another way of loading brings something; with an SLO also, that it meets it where the baseline does not."""
        meets_alone = not self.meets(BASELINE) and any(self.meets(arm) for arm in self.challengers)
        return meets_alone or (self.gain is not None and self.gain >= PAYS_FROM)

    @cached_property
    def verdict(self) -> str:
        """With an SLO: who meets it, or that no arm that could be built does. Else, why the point has no numbers."""
        if not any(row["status"] == "ok" for row in self.rows.values()):
            return "; ".join(dict.fromkeys(f"{row['status']}: {row['error']}" for row in self.rows.values()))
        if self.slo is None:
            return ""
        real = [arm for arm in self.rows if arm != BOUND]
        who = [arm for arm in real if self.meets(arm)]
        if not who:
            return NEVER + (f" (only {BOUND} would)" if self.meets(BOUND) else "")
        return "meets" if who == real else f"meets: {', '.join(who)}"

    def _ok(self, arm: str) -> Row | None:
        row = self.rows.get(arm)
        return row if row is not None and row["status"] == "ok" else None


@dataclass(frozen=True, slots=True)
class Swept:
    """A sweep, whole or interrupted."""

    findings: tuple[Finding, ...]
    given: Point  # the cluster as its file has it
    arms: tuple[str, ...]
    measure: Literal["jct", "ttft"]
    slo: Slo | None
    facts: Mapping[str, Any]  # what it is a sweep of
    is_interrupted: bool

    @property
    def is_complete(self) -> bool:
        return all(len(finding.rows) == len(self.arms) for finding in self.findings)

    @property
    def compared(self) -> list[Finding]:
        """Findings that have numbers to compare."""
        return [finding for finding in self.findings if finding.gain is not None]

    @property
    def runs(self) -> tuple[int, int]:
        """Rows, and how many of them have no result."""
        rows = [row for finding in self.findings for row in finding.rows.values()]
        return len(rows), sum(row["status"] != "ok" for row in rows)

    @property
    def has_failed(self) -> bool:
        """A run broke: its row is no statement about the point."""
        return any(row["status"] == "void" for finding in self.findings for row in finding.rows.values())

    def at(self, point: Point) -> Finding | None:
        return next((finding for finding in self.findings if finding.point == point), None)


def findings_of(
    rows: Iterable[Row], points: Sequence[Point], arms: Sequence[str], measure: Literal["jct", "ttft"], slo: Slo | None
) -> tuple[Finding, ...]:
    """Of these points and arms, in their order; other rows are left out."""
    by_point: dict[Point, dict[str, Row]] = {point: {} for point in points}
    for row in rows:
        if (point := point_of(row)) in by_point:
            by_point[point][row["arm"]] = row
    return tuple(
        Finding(point, {arm: found[arm] for arm in arms if arm in found}, measure, slo)
        for point, found in by_point.items()
    )


def write_points(rows: Sequence[Row], path: Path) -> None:
    """Replace the file at once. Raises RunError."""
    part = path.with_suffix(".part")
    try:
        pl.DataFrame(rows, SCHEMA).write_parquet(part)
        part.replace(path)
    except OSError as error:
        raise RunError(f"{path}: rows cannot be written: {error}; free space, or choose another -o") from None


def read_points(path: Path) -> list[Row]:
    """Raises RunError."""
    try:
        frame = pl.read_parquet(path)
    except FileNotFoundError:
        return []
    except (OSError, polars.exceptions.PolarsError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{path}: cannot be read ({reason}); delete it, or choose another -o") from None
    if frame.schema != SCHEMA:
        raise RunError(f"{path}: has other columns than a sweep of this version; delete it, or choose another -o")
    return frame.to_dicts()
