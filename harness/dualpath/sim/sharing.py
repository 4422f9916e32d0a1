"""Engines of one machine, which share its cores and its memory: what that adds to a pass, and to decode steps.

Off unless the profile says so (`cores`, `cold_us_per_token`). Whoever is at work when work starts slows all of it: what
starts or ends meanwhile changes nothing until the next pass, or the next step at which requests join or end.
"""

from __future__ import annotations

from dualpath.core.compiled import compiled
from dualpath.core.queues import NONE
from dualpath.sim.parts import Parts


@compiled
def shared_pass_ns(parts: Parts, group: int, new_tokens: int, alone_ns: int) -> int:
    """Of a pass that would take alone_ns on cores of its own, in memory that has been used before."""
    costs, most_new = parts.costs[0], parts.most_new[group]
    parts.most_new[group] = max(most_new, new_tokens)
    alone_ns += int(costs.cold_ns_per_token * (parts.most_new[group] - most_new))
    return int(alone_ns * _slower(parts, group)) if costs.cores else alone_ns


@compiled
def price_steps(parts: Parts, group: int) -> None:
    """Set what a decode group's steps take from the boundary on that it is at."""
    if parts.costs[0].cores:
        slower = _slower(parts, NONE)
        for term in range(len(parts.step_ps)):
            parts.decode.costs_ps[group, term] = int(parts.step_ps[term] * slower)


@compiled
def _slower(parts: Parts, group: int) -> float:
    """How many engines there are to a core. group: a pass group that starts, NONE where decode does."""
    num_busy = 0
    for number in range(len(parts.pass_free_ns)):
        if number == group or parts.pass_free_ns[number] > parts.counts[0].now_ns:
            num_busy += parts.costs[0].pass_engines
    for engine in range(len(parts.decode.requests)):
        if parts.decode.requests[engine]:
            num_busy += 1
    return max(1.0, num_busy / parts.costs[0].cores)
