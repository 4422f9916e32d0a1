"""Decode of a group of engines that step together, without stepping.

A step gives every request of the group one token. It lasts as long as its slowest engine takes:

    step = fixed + max over engines of (per_request x requests + per_context x context tokens)

in whole picoseconds, so that sums are exact. Between steps at which requests join or end, each engine's time grows by
the same amount per step (every request's context grows by one token), so a run of steps is an arithmetic series until
another engine becomes the slowest. `tests/sim/stepped_decode.py` does the same step by step; all times are equal.
"""

from __future__ import annotations

import numpy as np

from dualpath.core.arrays import Arrays
from dualpath.core.compiled import compiled
from dualpath.core.queues import NONE
from dualpath.core.records import Integers, Records, records

PS = 1000  # per ns

GROUP = np.dtype(
    [
        (name, np.int64)
        for name in (
            "clock_ps",  # the latest step boundary that was visited
            "step",  # steps done by then
            "requests",  # in decode
            "first_engine",
            "end_engine",
            "first_joining",  # requests that join at the next visited boundary, linked through `next`
            "last_joining",
            "planned_steps",  # from clock_ps to the next boundary to visit
        )
    ]
)


class Decode(Arrays):
    """Engines are numbered from 0 here: the decode engines only."""

    costs_ps: Integers  # [num_groups, 3] fixed, per request, per context token
    groups: Records  # [num_groups] GROUP
    requests: Integers  # [num_engines] in decode
    contexts: Integers  # [num_engines] tokens whose KV is in use
    first: Integers  # [num_engines] request that ends first, NONE where there is none
    next: Integers  # [capacity] of requests: in order of their last step, or joining
    last_step: Integers  # [capacity] at whose end a request has its last token


def new_decode(num_engines: int, engines_per_group: int, costs_ps: tuple[int, int, int], capacity: int) -> Decode:
    groups = records(GROUP, num_engines // engines_per_group)
    groups.first_engine = np.arange(len(groups)) * engines_per_group
    groups.end_engine = groups.first_engine + engines_per_group
    groups.first_joining = groups.last_joining = NONE
    return Decode(
        costs_ps=np.tile(np.array(costs_ps, np.int64), (len(groups), 1)),
        groups=groups,
        requests=np.zeros(num_engines, np.int64),
        contexts=np.zeros(num_engines, np.int64),
        first=np.full(num_engines, NONE, np.int64),
        next=np.full(capacity, NONE, np.int64),
        last_step=np.zeros(capacity, np.int64),
    )


def grow_decode(decode: Decode, capacity: int) -> None:
    more = np.full(capacity - len(decode.next), NONE, np.int64)
    decode.put(next=np.concatenate([decode.next, more]), last_step=np.concatenate([decode.last_step, more]))


@compiled
def ask_to_join(decode: Decode, number: int, request: int, at_ns: int) -> int:
    """A request wants to decode from at_ns on: it joins at the first step boundary then. Returns when to visit the
    group (ns)."""
    group = decode.groups[number]
    decode.next[request] = NONE
    if group.first_joining == NONE:
        group.first_joining = request
    else:
        decode.next[group.last_joining] = request
    group.last_joining = request
    if not group.requests:
        group.clock_ps = max(group.clock_ps, at_ns * PS)
        group.planned_steps = 0
    else:
        group.planned_steps = min(group.planned_steps, _steps_until(decode, number, (at_ns - 1) * PS + 1))
    return planned_ns(decode, number)


@compiled
def planned_ns(decode: Decode, number: int) -> int:
    """Time of the boundary to visit next: the first whole ns at or after it."""
    group = decode.groups[number]
    return -(-(group.clock_ps + _duration(decode, number, group.planned_steps)) // PS)


@compiled
def go_to_boundary(decode: Decode, number: int) -> None:
    """Do the planned steps."""
    group = decode.groups[number]
    steps = group.planned_steps
    group.clock_ps += _duration(decode, number, steps)
    group.step += steps
    for engine in range(group.first_engine, group.end_engine):
        decode.contexts[engine] += steps * decode.requests[engine]


@compiled
def take_ended(decode: Decode, number: int) -> int:
    """A request that has its last token at this boundary, out of the group; NONE when there is no more. Its context
    is given back by `leave`."""
    group = decode.groups[number]
    for engine in range(group.first_engine, group.end_engine):
        request = decode.first[engine]
        if request != NONE and decode.last_step[request] == group.step:
            decode.first[engine] = decode.next[request]
            decode.requests[engine] -= 1
            group.requests -= 1
            return request
    return NONE


@compiled
def leave(decode: Decode, engine: int, context_tokens: int) -> None:
    decode.contexts[engine] -= context_tokens


@compiled
def join(decode: Decode, number: int, request: int, engine: int, context_tokens: int, tokens_left: int) -> None:
    """Take part from this boundary on, for tokens_left >= 1 steps."""
    group = decode.groups[number]
    last_step = group.step + tokens_left
    decode.last_step[request] = last_step
    before, behind = NONE, decode.first[engine]
    while behind != NONE and decode.last_step[behind] <= last_step:
        before, behind = behind, decode.next[behind]
    decode.next[request] = behind
    if before == NONE:
        decode.first[engine] = request
    else:
        decode.next[before] = request
    decode.requests[engine] += 1
    decode.contexts[engine] += context_tokens
    group.requests += 1


@compiled
def plan(decode: Decode, number: int) -> None:
    """Visit the group next when its first request ends. It must have one."""
    group = decode.groups[number]
    earliest = NONE
    for engine in range(group.first_engine, group.end_engine):
        request = decode.first[engine]
        if request != NONE and (earliest == NONE or decode.last_step[request] < earliest):
            earliest = decode.last_step[request]
    group.planned_steps = earliest - group.step


@compiled
def next_step_ns(decode: Decode, number: int) -> int:
    """When the step that begins at this boundary ends."""
    return -(-(decode.groups[number].clock_ps + _duration(decode, number, 1)) // PS)


@compiled
def _duration(decode: Decode, number: int, steps: int) -> int:
    """Of so many steps from the visited boundary on, in ps."""
    done, total_ps = 0, 0
    while done < steps:
        first_ps, growth_ps, alike = _series(decode, number, done)
        count = min(alike, steps - done)
        total_ps += count * first_ps + growth_ps * (count * (count - 1) // 2)
        done += count
    return total_ps


@compiled
def _steps_until(decode: Decode, number: int, at_ps: int) -> int:
    """Fewest steps whose end is at at_ps or later; 0 where the visited boundary is."""
    done, left_ps = 0, at_ps - decode.groups[number].clock_ps
    while left_ps > 0:
        first_ps, growth_ps, alike = _series(decode, number, done)
        # the fewest `count` with count x first + growth x count (count - 1) / 2 >= left: solved, then set right
        slope = first_ps - growth_ps / 2
        count = int(2 * left_ps / (slope + np.sqrt(slope * slope + 2.0 * growth_ps * left_ps)))
        count = max(1, min(count, alike))
        while count > 1 and _sum(first_ps, growth_ps, count - 1) >= left_ps:
            count -= 1
        while count < alike and _sum(first_ps, growth_ps, count) < left_ps:
            count += 1
        left_ps -= _sum(first_ps, growth_ps, count)
        done += count
    return done


@compiled
def _sum(first_ps: int, growth_ps: int, count: int) -> int:
    return count * first_ps + growth_ps * (count * (count - 1) // 2)


@compiled
def _series(decode: Decode, number: int, done: int) -> tuple[int, int, int]:
    """The step that comes `done` steps after the visited boundary: how long it lasts, by how much each later one lasts
    longer, and for how many steps that holds."""
    costs_ps = decode.costs_ps[number]
    fixed_ps, per_request_ps, per_context_ps = costs_ps[0], costs_ps[1], costs_ps[2]
    group = decode.groups[number]
    slowest_ps, growth_ps = 0, 0
    for engine in range(group.first_engine, group.end_engine):
        requests = decode.requests[engine]
        engine_growth_ps = per_context_ps * requests
        engine_ps = per_request_ps * requests + per_context_ps * decode.contexts[engine] + engine_growth_ps * done
        if engine_ps > slowest_ps or (engine_ps == slowest_ps and engine_growth_ps > growth_ps):
            slowest_ps, growth_ps = engine_ps, engine_growth_ps
    alike = 1 << 40
    for engine in range(group.first_engine, group.end_engine):
        requests = decode.requests[engine]
        engine_growth_ps = per_context_ps * requests
        if engine_growth_ps > growth_ps:
            engine_ps = per_request_ps * requests + per_context_ps * decode.contexts[engine] + engine_growth_ps * done
            alike = min(alike, (slowest_ps - engine_ps) // (engine_growth_ps - growth_ps) + 1)
    return fixed_ps + slowest_ps, growth_ps, alike
