"""What one bar or point of the paper is a run of. A cell has one name, and so one run directory, for ever."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

from dualpath.plan import Plan

MaxLen = Literal["32k", "48k", "64k"]
MAX_LENS: tuple[MaxLen, ...] = ("32k", "48k", "64k")
MAX_TOKENS: dict[MaxLen, int] = {"32k": 32 * 1024, "48k": 48 * 1024, "64k": 64 * 1024}

# Cluster -> model and nodes as the paper's tables name them (its section 7.2).
CLUSTERS = {
    "ds660b-2p4d": ("DS 660B", "2P4D"),
    "ds27b-1p1d": ("DS 27B", "1P1D"),
    "qwen32b-1p2d": ("Qwen 32B", "1P2D"),
    "ds27b-1p2d": ("DS 27B", "1P2D"),
    "ds27b-2p1d": ("DS 27B", "2P1D"),
    "ds660b-48p96d": ("DS 660B", "48P96D"),
    "ds660b-44p88d": ("DS 660B", "44P88D"),
}

# The paper's name of a system -> our arm. SGL(MC) is not simulated.
ARM_OF = {
    "basic": "basic",
    "layerwise": "layerwise",
    "layerwise+dualpath": "dualpath-rr",
    "without_scheduling": "dualpath-rr",
    "layerwise+dualpath+scheduler": "dualpath",
    "dualpath": "dualpath",
    "oracle": "oracle",
}
ARRIVALS_S = 4500  # online: trajectories arrive for so long; the rule that ends a run looks back 1,800 s


@dataclass(frozen=True, slots=True)
class Cell:
    """One simulated run."""

    cluster: str  # of bench/clusters/paper-<cluster>.toml
    max_len: MaxLen  # of traces/agents-<max_len>.parquet
    arm: str
    agents: int
    rate_per_s: float | None = None  # None: offline, all agents start together
    append_factor: Fraction = Fraction(1)
    generate_factor: Fraction = Fraction(1)
    gap_s: float = 0.0  # mean tool time between turns
    constants: tuple[tuple[str, float], ...] = ()
    factors: tuple[tuple[str, float], ...] = ()

    @property
    def name(self) -> str:
        """As a path: cluster/set/load/arm and what else it was given."""
        load = f"{self.agents}-agents" if self.rate_per_s is None else f"{self.rate_per_s:g}-per-s"
        given = [self.arm]
        for word, factor in (("append", self.append_factor), ("generate", self.generate_factor)):
            if factor != 1:
                given.append(f"{word}-{float(factor):g}")
        if self.gap_s:
            given.append(f"gap-{self.gap_s:g}s")
        given += [f"{name}={value:g}" for name, value in self.constants]
        given += [f"{name}x{factor:g}" for name, factor in self.factors]
        return "/".join((self.cluster, self.max_len, load, ",".join(given)))

    def plan(self, root: Path, out: Path) -> Plan:
        """root: the repository; out: where all runs of the paper are kept."""
        is_scaled = not self.append_factor == self.generate_factor == 1
        return Plan(
            trace=root / "traces" / f"agents-{self.max_len}.parquet",
            cluster=root / "bench" / "clusters" / f"paper-{self.cluster}.toml",
            arm=self.arm,
            output=out / self.name,
            backend="sim",
            agents=self.agents,
            mode="offline" if self.rate_per_s is None else "online",
            rate_per_s=self.rate_per_s,
            max_len=MAX_TOKENS[self.max_len] if is_scaled else None,  # the shipped sets are cut already
            append_factor=self.append_factor,
            generate_factor=self.generate_factor,
            gap_s=self.gap_s,
            constants=self.constants,
            factors=self.factors,
        )


def online(cluster: str, max_len: MaxLen, arm: str, rate_per_s: float) -> Cell:
    """A run whose agents arrive for ARRIVALS_S."""
    agents = math.ceil(round(rate_per_s * ARRIVALS_S, 6))
    return Cell(cluster, max_len, arm, agents, rate_per_s)


def unique(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    """Each cell once, in the order of first mention."""
    return tuple(dict.fromkeys(cells))
