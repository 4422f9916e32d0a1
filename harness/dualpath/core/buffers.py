"""Who gets memory when: first the PE's, then the DE buffer, each in order of asking.

A request holds back later ones that want the memory it waits for, or small requests would starve it; memories of other
engines stay open. It waits for a DE buffer with its PE memory in hand; since nobody who has a DE buffer waits for
memory again, somebody can always go on.
"""

from __future__ import annotations

from dualpath.core.answers import ADMIT, READ, say
from dualpath.core.compiled import compiled
from dualpath.core.passes import ready
from dualpath.core.queues import pop, push
from dualpath.core.state import DECODE, PREFILL, State


@compiled
def ask(state: State, flight: int) -> None:
    """A request whose route is chosen asks for its memory."""
    request = state.flights[flight]
    if request.prefill_blocks or state.rules[0].holds_hbm:
        push(state.buffer_queues, request.prefill_engine, state.after, flight)
        grant_prefill(state, request.prefill_engine)
    else:
        push(state.buffer_queues, request.decode_engine, state.after, flight)
        grant_decode(state, request.decode_engine)


@compiled
def grant_prefill(state: State, engine: int) -> None:
    """Give PE buffer for the hit blocks read on its side, and device memory for the whole prompt where an arm holds
    all its layers at once."""
    memory = state.engines[engine]
    while state.buffer_queues[engine].length:
        flight = state.buffer_queues[engine].head
        request = state.flights[flight]
        hbm_blocks = request.prompt_blocks * state.rules[0].holds_hbm
        if memory.buffer_used + request.prefill_blocks > memory.buffer_blocks:
            return
        if memory.hbm_used + hbm_blocks > memory.hbm_blocks:
            return
        memory.buffer_used += request.prefill_blocks
        memory.hbm_used += hbm_blocks
        pop(state.buffer_queues, engine, state.after)
        push(state.buffer_queues, request.decode_engine, state.after, flight)
        grant_decode(state, request.decode_engine)


@compiled
def grant_decode(state: State, engine: int) -> None:
    """Give DE buffer for the whole prompt: then a request has all it needs, and its reads start."""
    memory = state.engines[engine]
    while state.buffer_queues[engine].length:
        flight = state.buffer_queues[engine].head
        request = state.flights[flight]
        if memory.buffer_used + request.prompt_blocks > memory.buffer_blocks:
            return
        memory.buffer_used += request.prompt_blocks
        pop(state.buffer_queues, engine, state.after)
        say(state, ADMIT, flight, 0, 0, 0, 0, 0)
        request.cached_tokens = request.hit_blocks * state.rules[0].block_tokens
        request.reads_left = 0
        if request.prefill_blocks:
            _read(state, flight, PREFILL, request.prefill_engine, 0, request.prefill_blocks)
        if request.decode_blocks:
            _read(state, flight, DECODE, request.decode_engine, request.prefill_blocks, request.decode_blocks)
        if not request.reads_left:
            ready(state, flight)


@compiled
def _read(state: State, flight: int, side: int, engine: int, first_block: int, num_blocks: int) -> None:
    """Only now does a request count in the read queue: one that waits for memory keeps no storage NIC busy, and
    counting it would send others to the other side while this side's NIC idles."""
    state.nodes[state.engines[engine].node].read_queue_blocks += num_blocks
    state.flights[flight].reads_left += 1
    say(state, READ, flight, side, engine, first_block, num_blocks, 0)


@compiled
def leave_prefill_memory(state: State, flight: int) -> None:
    """The prompt's KV has left the PE."""
    request = state.flights[flight]
    memory = state.engines[request.prefill_engine]
    memory.buffer_used -= request.prefill_blocks
    memory.hbm_used -= request.prompt_blocks * state.rules[0].holds_hbm
