"""The scheduler: one state machine for all requests. An event in, commands (`state.commands`) out.

    turn_due -> placement -> route -> ASSIGNED -> memory granted -> ADMIT, READ* -> read_done*
             -> PREFILL (batch) -> prefill_computed -> prefill_sent -> DECODE -> buffer_freed -> turn_ended

The real engine (through scheduler.py) and the simulator run this very code.
"""

from __future__ import annotations

from dualpath.core.answers import ASSIGNED, DECODE_START, say
from dualpath.core.buffers import ask, grant_decode, grant_prefill, leave_prefill_memory
from dualpath.core.compiled import compiled
from dualpath.core.passes import come_back, ready, start_pass
from dualpath.core.placement import (
    leave_decode,
    leave_prefill,
    place_in_group,
    place_prefill,
    place_round_robin,
    share_among_groups,
)
from dualpath.core.queues import NONE, pop, push
from dualpath.core.reports import read_queue, take_reports
from dualpath.core.routes import choose
from dualpath.core.state import DECODE, PREFILL, State

_ROUND_ROBIN = 0  # in state.PLACEMENTS
_ALTERNATE = 1  # in state.READ_SIDES


@compiled
def turn_due(state: State, prompt_tokens: int, generate_tokens: int, hit_blocks: int) -> int:
    """A turn to serve: returns the flight that stands for it until turn_ended. There must be a free one."""
    _begin(state)
    block_tokens = state.rules[0].block_tokens
    state.counts[0].num_free -= 1
    flight = state.free[state.counts[0].num_free]
    request = state.flights[flight]
    request.prompt_tokens = prompt_tokens
    request.total_tokens = prompt_tokens + generate_tokens
    request.hit_blocks = hit_blocks
    request.prompt_blocks = -(-prompt_tokens // block_tokens)
    request.total_blocks = -(-request.total_tokens // block_tokens)
    request.prefill_engine = NONE
    request.decode_engine = NONE
    request.prefill_blocks = 0
    request.decode_blocks = 0
    push(state.arrivals, PREFILL, state.after_prefill, flight)
    if state.rules[0].placement == _ROUND_ROBIN:
        place_round_robin(state)
    else:
        push(state.arrivals, DECODE, state.after_decode, flight)
        place_prefill(state)
        share_among_groups(state)
    _route(state)
    return flight


@compiled
def read_done(state: State, flight: int, side: int) -> None:
    """All blocks of one READ are in the buffer of their side."""
    _begin(state)
    request = state.flights[flight]
    if side == PREFILL:
        state.nodes[state.engines[request.prefill_engine].node].read_queue_blocks -= request.prefill_blocks
    else:
        state.nodes[state.engines[request.decode_engine].node].read_queue_blocks -= request.decode_blocks
    request.reads_left -= 1
    if not request.reads_left:
        ready(state, flight)


@compiled
def prefill_computed(state: State, engine: int) -> None:
    """A forward batch of a PE has computed its last layer."""
    _begin(state)
    state.engines[engine].num_batches -= 1
    start_pass(state, engine)


@compiled
def prefill_sent(state: State, first: int, engine: int) -> None:
    """The KV of a forward batch, named by its first flight, has arrived in the DE buffers."""
    _begin(state)
    flight = first
    while flight != NONE:
        behind = state.after[flight]
        request = state.flights[flight]
        if request.cached_tokens + request.chunk_tokens < request.prompt_tokens:
            request.cached_tokens += request.chunk_tokens
            come_back(state, flight)
        else:
            leave_prefill(state, flight)
            leave_prefill_memory(state, flight)
            say(state, DECODE_START, flight, request.decode_engine, 0, 0, 0, 0)
        flight = behind
    grant_prefill(state, engine)  # before anything new is placed: in order of asking
    if state.rules[0].placement != _ROUND_ROBIN:
        place_prefill(state)
        _route(state)
    start_pass(state, engine)


@compiled
def buffer_freed(state: State, flight: int) -> None:
    """The DE no longer needs a request's DE buffer: its KV is in HBM, its prompt's new blocks in storage."""
    _begin(state)
    engine = state.flights[flight].decode_engine
    state.engines[engine].buffer_used -= state.flights[flight].prompt_blocks
    grant_decode(state, engine)


@compiled
def turn_ended(state: State, flight: int) -> None:
    """Last token generated and last full block acknowledged by the store."""
    _begin(state)
    node = state.engines[state.flights[flight].decode_engine].node
    leave_decode(state, flight)
    state.free[state.counts[0].num_free] = flight
    state.counts[0].num_free += 1
    if state.rules[0].placement == _ROUND_ROBIN:
        place_round_robin(state)
    else:
        place_in_group(state, node)
    _route(state)


@compiled
def queues_reported(state: State) -> None:
    """Every node has reported its read queue."""
    _begin(state)
    take_reports(state)  # nobody waits for this: a long queue is no reason to leave a request unplaced


@compiled
def _begin(state: State) -> None:
    state.counts[0].num_commands = 0


@compiled
def _route(state: State) -> None:
    """Choose the route of what was placed, and ask for its memory."""
    rules = state.rules[0]
    while state.placed[0].length:
        flight = pop(state.placed, 0, state.after)
        request = state.flights[flight]
        prefill_node = state.engines[request.prefill_engine].node
        decode_node = state.engines[request.decode_engine].node
        prefill_queue, decode_queue = read_queue(state, prefill_node), read_queue(state, decode_node)
        if request.hit_blocks:
            turn = 0
            if rules.read_side == _ALTERNATE:
                pair = request.prefill_engine, request.decode_engine - rules.num_prefill
                turn = state.routes_chosen[pair]
                state.routes_chosen[pair] += 1
            request.prefill_blocks = choose(rules.read_side, request.hit_blocks, prefill_queue, decode_queue, turn)
            request.decode_blocks = request.hit_blocks - request.prefill_blocks
        say(
            state,
            ASSIGNED,
            flight,
            request.prefill_engine,
            request.decode_engine,
            request.prefill_blocks,
            prefill_queue,
            decode_queue,
        )
        ask(state, flight)
