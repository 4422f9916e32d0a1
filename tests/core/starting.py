"""Trajectories as a feed takes them: families in order of arrival."""

from __future__ import annotations

from collections.abc import Sequence

from dualpath.core.feed import Start
from dualpath.core.trajectory import Trajectory


def starting(trajectories: Sequence[Trajectory], arrivals_ns: Sequence[int] | None = None) -> list[Start]:
    """Group each root with the sub-agents behind it; arrivals_ns by root, all 0 where None. Roots that arrive together
    stay in order."""
    families: list[list[Trajectory]] = []
    for trajectory in trajectories:
        if trajectory.parent is None:
            families.append([])
        families[-1].append(trajectory)
    times_ns = [0] * len(families) if arrivals_ns is None else arrivals_ns
    starts = [Start(at_ns, family) for at_ns, family in zip(times_ns, families, strict=True)]
    return sorted(starts, key=lambda start: start.arrival_ns)
