"""When prefill engines start their next forward batch.

The PEs of a pass group (`rules.pass_engines`) run their forward passes together, because data-parallel attention
meets at the experts: their batches are chosen at one moment, and none starts another before all have computed theirs.
A group of one is an engine by itself.
"""

from __future__ import annotations

from dualpath.core.answers import PREFILL_BATCH, say
from dualpath.core.batch import select_batch
from dualpath.core.compiled import compiled
from dualpath.core.queues import NONE, insert, push
from dualpath.core.state import State


@compiled
def ready(state: State, flight: int) -> None:
    """All hit KV of a request is in a buffer: it may be computed."""
    engine = state.flights[flight].prefill_engine
    state.flights[flight].rank = state.counts[0].num_ready
    state.counts[0].num_ready += 1
    push(state.ready_queues, engine, state.after, flight)
    start_pass(state, engine)


@compiled
def come_back(state: State, flight: int) -> None:
    """The rest of a cut request goes back to its place: chunks of several may be under way; the first goes first."""
    engine = state.flights[flight].prefill_engine
    before, behind = NONE, NONE
    if state.ready_queues[engine].length:
        behind = state.ready_queues[engine].head
    while behind != NONE and state.flights[behind].rank < state.flights[flight].rank:
        before, behind = behind, state.after[behind]
    insert(state.ready_queues, engine, state.after, flight, before)


@compiled
def start_pass(state: State, engine: int) -> None:
    """Give every engine of the group a batch of what it has ready, if the group may start a pass."""
    rules = state.rules[0]
    first = engine - engine % rules.pass_engines
    for member in range(first, first + rules.pass_engines):
        if state.engines[member].num_batches >= rules.prefill_in_flight:
            return
    for member in range(first, first + rules.pass_engines):
        flight = select_batch(state, member)
        if flight != NONE:
            state.engines[member].num_batches += 1
            say(state, PREFILL_BATCH, flight, member, 0, 0, 0, 0)
