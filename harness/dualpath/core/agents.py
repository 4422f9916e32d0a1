"""Which turn falls due when another has ended: the feed's rules, as compiled code runs them.

A turn is due when the turn before it ended, plus its gap times a gap scale; a sub-agent starts when its parent's turn
has ended, and the parent's next turn waits for its sub-agents. Agents are *slots* here, used again when one has ended.
"""

from __future__ import annotations

import numpy as np

from dualpath.core.arrays import Arrays
from dualpath.core.compiled import compiled
from dualpath.core.heap import Heap, grow_heap, new_heap, put
from dualpath.core.queues import NONE
from dualpath.core.records import Floats, Integers, Records, records

AGENT = np.dtype(
    [
        (name, np.int64)
        for name in (
            "number",  # in order of arrival
            "first_turn",  # row of the turn table
            "num_turns",
            "parent",  # slot, NONE for a root
            "start_turn",  # the parent's turn whose end starts it
            "first_child",  # of the sub-agents that have not started
            "next_sibling",
            "num_running",  # sub-agents it waits for
            "waiting_turn",  # the turn that started them
            "latest_end_ns",  # of that turn and its sub-agents so far: ends may be told out of order
        )
    ]
)


class Agents(Arrays):
    slots: Records  # [capacity] AGENT
    free: Integers  # [capacity] stack of free slots
    gone: Integers  # [capacity] numbers of agents that have ended, until somebody looks
    counts: Integers  # [3] NUM_LIVE, NUM_FREE, NUM_GONE
    gap_scale: Floats  # [1]
    due: Heap  # (due_ns, number, turn, slot): turns known to fall due


NUM_LIVE, NUM_FREE, NUM_GONE = range(3)


def new_agents(gap_scale: float, capacity: int = 64) -> Agents:
    agents = Agents(
        slots=records(AGENT, 0),
        free=np.zeros(0, np.int64),
        gone=np.zeros(0, np.int64),
        counts=np.zeros(3, np.int64),
        gap_scale=np.array([gap_scale]),
        due=new_heap(0),
    )
    grow_agents(agents, capacity)
    return agents


def grow_agents(agents: Agents, capacity: int) -> None:
    """Make room for more. Those that have ended must have been looked at."""
    old = len(agents.slots)
    added, num_free = capacity - old, agents.counts[NUM_FREE]
    free = np.zeros(capacity, np.int64)
    free[:added] = np.arange(capacity - 1, old - 1, -1)
    free[added : added + num_free] = agents.free[:num_free]
    agents.counts[NUM_FREE] += added
    grow_heap(agents.due, capacity)
    agents.put(
        slots=np.concatenate([agents.slots, records(AGENT, added)]).view(np.recarray),
        free=free,
        gone=np.zeros(capacity, np.int64),
    )


@compiled
def arrive(agents: Agents, number: int, first_turn: int, num_turns: int, parent: int, start_turn: int) -> int:
    """Take a slot for an agent; there must be a free one. A sub-agent waits for its parent's turn."""
    agents.counts[NUM_LIVE] += 1
    agents.counts[NUM_FREE] -= 1
    slot = agents.free[agents.counts[NUM_FREE]]
    agent = agents.slots[slot]
    agent.number, agent.first_turn, agent.num_turns = number, first_turn, num_turns
    agent.parent, agent.start_turn, agent.first_child, agent.next_sibling = parent, start_turn, NONE, NONE
    agent.num_running = 0
    if parent != NONE:  # behind its elder siblings
        if agents.slots[parent].first_child == NONE:
            agents.slots[parent].first_child = slot
        else:
            elder = agents.slots[parent].first_child
            while agents.slots[elder].next_sibling != NONE:
                elder = agents.slots[elder].next_sibling
            agents.slots[elder].next_sibling = slot
    return slot


@compiled
def turn_ended(agents: Agents, turns: Records, slot: int, turn: int, end_ns: int) -> None:
    """A turn generated its last token at end_ns: its sub-agents start, or the agent goes on."""
    num_started = _start_children(agents, turns, slot, turn, end_ns)
    if num_started:
        agent = agents.slots[slot]
        agent.num_running, agent.waiting_turn, agent.latest_end_ns = num_started, turn, end_ns
        return
    while True:
        agent = agents.slots[slot]
        if turn + 1 < agent.num_turns:
            fall_due(agents, turns, slot, turn + 1, end_ns)
            return
        parent = agent.parent
        _leave(agents, slot)
        if parent == NONE:
            return
        waiting = agents.slots[parent]
        waiting.latest_end_ns = max(waiting.latest_end_ns, end_ns)
        waiting.num_running -= 1
        if waiting.num_running:
            return
        slot, turn, end_ns = parent, waiting.waiting_turn, waiting.latest_end_ns


@compiled
def fall_due(agents: Agents, turns: Records, slot: int, turn: int, end_ns: int) -> None:
    gap_ns = int(turns[agents.slots[slot].first_turn + turn].gap_ns * agents.gap_scale[0])
    put(agents.due, end_ns + gap_ns, agents.slots[slot].number, turn, slot)


@compiled
def _start_children(agents: Agents, turns: Records, slot: int, turn: int, end_ns: int) -> int:
    num_started = 0
    before, child = NONE, agents.slots[slot].first_child
    while child != NONE:
        behind = agents.slots[child].next_sibling
        if agents.slots[child].start_turn == turn:
            fall_due(agents, turns, child, 0, end_ns)
            num_started += 1
            if before == NONE:
                agents.slots[slot].first_child = behind
            else:
                agents.slots[before].next_sibling = behind
        else:
            before = child
        child = behind
    return num_started


@compiled
def _leave(agents: Agents, slot: int) -> None:
    agents.gone[agents.counts[NUM_GONE]] = agents.slots[slot].number
    agents.counts[NUM_GONE] += 1
    agents.free[agents.counts[NUM_FREE]] = slot
    agents.counts[NUM_FREE] += 1
    agents.counts[NUM_LIVE] -= 1
