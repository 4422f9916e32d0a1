"""What a trace looks like: lengths, delays, hit rates, and the columns of the paper's Table 2."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

from dualpath.core.trajectory import Trajectory
from dualpath.trace.hits import PrefixTrie
from dualpath.trace.population import Columns
from dualpath.trace.reader import TraceFile
from dualpath.trace.select import families

BLOCK_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Spread:
    """A quantity over turns or trajectories."""

    mean: float
    p10: float
    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class HitRate:
    """Prompt tokens found in an infinite cache, of all prompt tokens."""

    hit_tokens: int
    prompt_tokens: int

    @property
    def rate(self) -> float:
        return self.hit_tokens / self.prompt_tokens if self.prompt_tokens else 0.0


class StatsRow(NamedTuple):
    quantity: str
    mean: str
    p10: str
    p50: str
    p90: str
    p99: str
    max: str


@dataclass(frozen=True, slots=True)
class TraceStats:
    """Hit rates:

    hits_planned    full 64-token blocks of kept context, outputs included: what a replay alone implies
    hits_within     prompt to earlier prompts of the same trajectory, by recorded block hashes; None without
    hits_across     the same over all earlier prompts that share the hash scope

    The last two count blocks of `hash_block_tokens`, as recorded.
    """

    path: str
    num_trajectories: int
    num_sub_agents: int
    num_turns: int
    hash_block_tokens: int | None
    table2: Columns
    spreads: dict[str, Spread]  # turns, append_tokens, generate_tokens, context_tokens, final_tokens, gap_s
    hits_planned: HitRate
    hits_within: HitRate | None
    hits_across: HitRate | None

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        values = asdict(self)
        values["table2"] = self.table2._asdict()
        for name in ("hits_planned", "hits_within", "hits_across"):
            hits: HitRate | None = getattr(self, name)
            if hits is not None:
                values[name]["rate"] = hits.rate
        return values

    def rows(self) -> list[StatsRow]:
        """For a table: one row per quantity."""
        return [
            StatsRow(name, *(f"{value:,.4g}" if value < 100 else f"{value:,.0f}" for value in asdict(spread).values()))
            for name, spread in self.spreads.items()
        ]


def trace_stats(trace: TraceFile) -> TraceStats:
    """One pass over the trace. Memory: 8 bytes per turn and quantity, and the distinct block prefixes."""
    counted = _Counted()
    for family in families(trace):
        counted.add(family)
    return counted.stats(trace)


class _Counted:
    def __init__(self) -> None:
        self._values = {
            name: array("q")
            for name in ("turns", "append_tokens", "generate_tokens", "context_tokens", "final_tokens", "gap_ns")
        }
        self._means = dict.fromkeys(("append", "generate", "context"), 0.0)
        self._sub_agents = 0
        self._planned_hits = self._prompt_tokens = 0
        self._hashed_tokens = self._within_hits = self._across_hits = 0
        self._everything = PrefixTrie()

    def add(self, family: list[Trajectory]) -> None:
        # Local hashes mean something within a family only.
        shared = self._everything if family[0].hash_scope == "global" else PrefixTrie()
        for trajectory in family:
            self._add_lengths(trajectory)
            if trajectory.hash_block_tokens is not None:
                self._add_hashes(trajectory, trajectory.hash_block_tokens, shared)

    def _add_lengths(self, trajectory: Trajectory) -> None:
        prompts = trajectory.prompt_tokens()
        turns = len(prompts)
        appends = [turn.append_tokens for turn in trajectory.turns]
        generates = [turn.generate_tokens for turn in trajectory.turns]
        self._sub_agents += trajectory.parent is not None
        self._values["turns"].append(turns)
        self._values["append_tokens"].extend(appends)
        self._values["generate_tokens"].extend(generates)
        self._values["context_tokens"].extend(prompts)
        self._values["final_tokens"].append(prompts[-1] + generates[-1])
        self._values["gap_ns"].extend(turn.gap_ns for turn in trajectory.turns[1:])
        self._means["append"] += sum(appends) / turns
        self._means["generate"] += sum(generates) / turns
        self._means["context"] += sum(prompts) / turns
        self._planned_hits += sum(trajectory.planned_hit_tokens(BLOCK_TOKENS))
        self._prompt_tokens += sum(prompts)

    def _add_hashes(self, trajectory: Trajectory, block: int, shared: PrefixTrie) -> None:
        own = PrefixTrie()
        for turn, prompt in zip(trajectory.turns, trajectory.prompt_tokens(), strict=True):
            hashes = turn.block_hashes or ()
            self._hashed_tokens += prompt
            # The last hash may stand for a block that the prompt does not fill.
            self._within_hits += min(own.insert(hashes) * block, prompt)
            self._across_hits += min(shared.insert(hashes) * block, prompt)

    def stats(self, trace: TraceFile) -> TraceStats:
        block = trace.meta.hash_block_tokens
        turns = self._values["turns"]
        count = len(turns)
        spreads = {name: _spread(values) for name, values in self._values.items() if name != "gap_ns"}
        spreads["gap_s"] = _spread(self._values["gap_ns"], scale=1e-9)
        return TraceStats(
            path=str(trace.path),
            num_trajectories=count,
            num_sub_agents=self._sub_agents,
            num_turns=sum(turns),
            hash_block_tokens=block,
            table2=Columns(
                turns=sum(turns) / count,
                append=self._means["append"] / count,
                generate=self._means["generate"] / count,
                total=sum(self._values["final_tokens"]) / count,
                context=self._means["context"] / count,
            ),
            spreads=spreads,
            hits_planned=HitRate(self._planned_hits, self._prompt_tokens),
            hits_within=None if block is None else HitRate(self._within_hits, self._hashed_tokens),
            hits_across=None if block is None else HitRate(self._across_hits, self._hashed_tokens),
        )


def _spread(values: Iterable[int], scale: float = 1.0) -> Spread:
    data = np.fromiter(values, dtype=np.float64) * scale
    if not data.size:
        return Spread(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    p10, p50, p90, p99 = np.percentile(data, (10, 50, 90, 99)).tolist()
    return Spread(float(data.mean()), p10, p50, p90, p99, float(data.max()))
