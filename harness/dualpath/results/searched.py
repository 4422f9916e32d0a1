"""What is known when a search for a rate ends, however it ends: its probes, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from dualpath.core.bisection import bracket, next_place, passes_again
from dualpath.results.capacity import Capacity, capacity
from dualpath.results.slo import Slo

Row = dict[str, Any]


class Probe(NamedTuple):
    """One run."""

    arm: str
    repeat: int
    place: int  # of its rate


@dataclass(frozen=True, slots=True)
class Searched:
    """rows: by probe, what its run showed in the judged window; latencies as `TAG_ns`, `met`, and `stop`: why the
    window is that one."""

    arms: tuple[str, ...]
    repeats: int
    rates: tuple[float, ...]  # agents per second, ascending
    slo: Slo
    rule: str  # name of what chooses the judged window
    rows: Mapping[Probe, Row]
    void: tuple[str, ...] = ()  # runs that decide nothing, and why
    is_interrupted: bool = False

    def due(self) -> list[Probe]:
        """The next rate of every arm and repeat that is not done. Arms side by side: what the machine does meanwhile,
        it does to all of them."""
        probes = [
            (arm, repeat, next_place(len(self.rates), self._verdicts(arm, repeat)))
            for repeat in range(self.repeats)
            for arm in self.arms
        ]
        return [Probe(arm, repeat, place) for arm, repeat, place in probes if place is not None]

    def capacity(self, arm: str) -> Capacity | None:
        """None: not known yet."""
        verdicts = [self._verdicts(arm, repeat) for repeat in range(self.repeats)]
        if any(next_place(len(self.rates), each, beyond=0) is not None for each in verdicts):
            return None
        return capacity(self.rates, [bracket(len(self.rates), each) for each in verdicts])

    def passes_again(self, arm: str) -> list[tuple[int, float]]:
        """(repeat, rate) where the SLO was kept though it was not at a smaller rate."""
        return [
            (repeat, self.rates[place])
            for repeat in range(self.repeats)
            for place in passes_again(self._verdicts(arm, repeat))
        ]

    def at(self, arm: str, rate_per_s: float) -> list[Row]:
        """Of every repeat that was run there."""
        return [row for row in self.rows.values() if row["arm"] == arm and row["rate_per_s"] == rate_per_s]

    def _verdicts(self, arm: str, repeat: int) -> dict[int, bool]:
        return {probe.place: row["met"] for probe, row in self.rows.items() if probe[:2] == (arm, repeat)}
