"""When the trajectories of a run start, and what a run will ask of the cluster, both in one pass over the trace."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from dualpath.core.errors import TraceError
from dualpath.core.feed import Start
from dualpath.core.trajectory import Trajectory, Turn

FeedMode = Literal["offline", "online", "recorded"]


def offline(families: Iterable[list[Trajectory]]) -> Iterator[Start]:
    """All together."""
    for family in families:
        yield Start(0, family)


def online(families: Iterable[list[Trajectory]], rate_per_s: float, seed: int) -> Iterator[Start]:
    """Poisson arrivals at `rate_per_s` trajectories per second; the same seed gives the same arrivals in every arm."""
    rng = random.Random(f"arrivals {seed}")
    at_s = 0.0
    for family in families:
        at_s += rng.expovariate(rate_per_s)
        yield Start(int(at_s * 1e9), family)


def recorded(families: Iterable[list[Trajectory]]) -> Iterator[Start]:
    """When the trace says, counted from the first one. Raises TraceError for a trajectory without an arrival, or one
    that arrived before the one that stands before it."""
    zero_ns: int | None = None
    latest_ns = 0
    for family in families:
        root, arrival_ns = family[0].id, family[0].turns[0].arrival_ns
        if arrival_ns is None:
            raise TraceError(
                f"trajectory {root!r} has no arrival_ns, so arrivals cannot be replayed as recorded; replay offline "
                "(all start together) or online (--rate)"
            )
        if zero_ns is None:
            zero_ns = latest_ns = arrival_ns
        if arrival_ns < latest_ns:
            raise TraceError(
                f"trajectory {root!r} has arrival_ns {arrival_ns:,}, before {latest_ns:,} of the one before it in "
                "the file; a recorded replay reads trajectories as they arrive: sort the trace by arrival"
            )
        latest_ns = arrival_ns
        yield Start(arrival_ns - zero_ns, family)


@dataclass(slots=True)
class Workload:
    """What a run will serve."""

    roots: int = 0  # agents that are nobody's sub-agent
    trajectories: int = 0  # sub-agents included
    turns: int = 0
    turns_of_several_tokens: int = 0  # that generate two or more
    new_tokens: int = 0  # appended and generated
    largest_prompt_tokens: int = 0
    largest_total_tokens: int = 0  # prompt + output

    @classmethod
    def of(cls, starts: Iterable[Start]) -> Workload:
        found = cls()
        known: dict[int, tuple[Workload, tuple[Turn, ...]]] = {}  # by id of the turns, which copies share
        for start in starts:
            found.roots += 1
            for trajectory in start.family:
                if id(trajectory.turns) not in known:
                    known[id(trajectory.turns)] = cls._of_one(trajectory), trajectory.turns
                found._add(known[id(trajectory.turns)][0])
        return found

    @classmethod
    def _of_one(cls, trajectory: Trajectory) -> Workload:
        prompts = trajectory.prompt_tokens()
        return cls(
            trajectories=1,
            turns=len(trajectory.turns),
            turns_of_several_tokens=sum(turn.generate_tokens >= 2 for turn in trajectory.turns),
            new_tokens=sum(turn.append_tokens + turn.generate_tokens for turn in trajectory.turns),
            largest_prompt_tokens=max(prompts),
            largest_total_tokens=max(
                prompt + turn.generate_tokens for turn, prompt in zip(trajectory.turns, prompts, strict=True)
            ),
        )

    def _add(self, other: Workload) -> None:
        self.trajectories += other.trajectories
        self.turns += other.turns
        self.turns_of_several_tokens += other.turns_of_several_tokens
        self.new_tokens += other.new_tokens
        self.largest_prompt_tokens = max(self.largest_prompt_tokens, other.largest_prompt_tokens)
        self.largest_total_tokens = max(self.largest_total_tokens, other.largest_total_tokens)
