"""Tool time between turns, for traces that have none: what the paper left out because it could not afford the runs
(its section 8.2)."""

from __future__ import annotations

import random
from dataclasses import replace

from dualpath.core.trajectory import Trajectory


def with_gaps(trajectory: Trajectory, mean_s: float, seed: int) -> Trajectory:
    """Before every turn but the first, an exponential gap of that mean instead of the recorded one. The same seed gives
    a trajectory the same gaps in every run, whatever is around it. mean_s 0: as recorded."""
    if not mean_s:
        return trajectory
    rng = random.Random(f"gaps {seed} {trajectory.id}")
    first, *others = trajectory.turns
    later = (replace(turn, gap_ns=int(rng.expovariate(1 / mean_s) * 1e9)) for turn in others)
    return replace(trajectory, turns=(first, *later))
