"""When the trajectories of a run start, and what a run will ask of the cluster, both in one pass over the trace."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from dualpath.core.errors import TraceError
from dualpath.core.feed import Start
from dualpath.core.trajectory import Trajectory

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
    new_tokens: int = 0  # appended and generated
    largest_prompt_tokens: int = 0
    largest_total_tokens: int = 0  # prompt + output

    @classmethod
    def of(cls, starts: Iterable[Start]) -> Workload:
        found = cls()
        for start in starts:
            found.roots += 1
            for trajectory in start.family:
                found._add(trajectory)
        return found

    def _add(self, trajectory: Trajectory) -> None:
        self.trajectories += 1
        self.turns += len(trajectory.turns)
        for turn, prompt_tokens in zip(trajectory.turns, trajectory.prompt_tokens(), strict=True):
            self.new_tokens += turn.append_tokens + turn.generate_tokens
            self.largest_prompt_tokens = max(self.largest_prompt_tokens, prompt_tokens)
            self.largest_total_tokens = max(self.largest_total_tokens, prompt_tokens + turn.generate_tokens)
