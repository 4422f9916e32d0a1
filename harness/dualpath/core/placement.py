"""Which prefill and decode engine serve a request (paper 5.2, 5.3).

Both placements place what can be placed now; requests that then have both engines go to `state.placed`, in order.

The paper lets engine groups fetch periodically and does not give the period; here all groups fetch at every event
that can change their choice, together, so that Algorithm 1 picks among the engines of all PE groups at once.
"""

from __future__ import annotations

from dualpath.core.compiled import compiled
from dualpath.core.least import set_value
from dualpath.core.queues import NONE, pop, push
from dualpath.core.reports import read_queue
from dualpath.core.state import DECODE, PREFILL, State


@compiled
def place_round_robin(state: State) -> None:
    """Engines in turn, first come first served; a request waits at the head until its DE has HBM for it."""
    rules, counts = state.rules[0], state.counts[0]
    while state.arrivals[PREFILL].length:
        flight = state.arrivals[PREFILL].head
        decode_engine = rules.num_prefill + counts.next_decode
        if not hbm_fits(state, decode_engine, state.flights[flight].total_blocks):
            return
        pop(state.arrivals, PREFILL, state.after_prefill)
        take_prefill(state, flight, counts.next_prefill)
        take_decode(state, flight, decode_engine)
        counts.next_prefill = (counts.next_prefill + 1) % rules.num_prefill
        counts.next_decode = (counts.next_decode + 1) % (rules.num_engines - rules.num_prefill)


@compiled
def place_prefill(state: State) -> None:
    """Algorithm 1: the engine with the fewest tokens among those whose node has a short disk queue (C2), else among
    the others that are not overloaded (C3), else wait."""
    while state.arrivals[PREFILL].length:
        engine = _least_loaded(state)
        if engine == NONE:
            return
        flight = pop(state.arrivals, PREFILL, state.after_prefill)
        take_prefill(state, flight, engine)


@compiled
def _least_loaded(state: State) -> int:
    rules = state.rules[0]
    best, best_is_long, best_tokens = NONE, False, 0
    for node in range(rules.prefill_nodes):
        tokens = state.nodes[node].least_tokens
        if tokens > rules.beta_tokens:
            continue
        is_long = read_queue(state, node) > rules.alpha_blocks
        if best == NONE or (is_long, tokens) < (best_is_long, best_tokens):
            best, best_is_long, best_tokens = state.nodes[node].least_engine, is_long, tokens
    return best


@compiled
def note_tokens(state: State, node: int) -> None:
    """Tokens of a prefill node's engines have changed: find its least loaded one, so that Algorithm 1 looks at nodes
    and not at every engine."""
    first = node * state.rules[0].engines_per_prefill_node
    least = first
    for engine in range(first + 1, first + state.rules[0].engines_per_prefill_node):
        if state.engines[engine].tokens < state.engines[least].tokens:
            least = engine
    state.nodes[node].least_engine = least
    state.nodes[node].least_tokens = state.engines[least].tokens


@compiled
def share_among_groups(state: State) -> None:
    """DE phase 1: each request joins the private queue of the group with the fewest tokens; the group then serves
    its queue. A request that waits in a private queue counts as its group's, or requests that come together would
    all be sent the same way."""
    rules = state.rules[0]
    while state.arrivals[DECODE].length:
        flight = pop(state.arrivals, DECODE, state.after_decode)
        best = rules.prefill_nodes + state.group_tokens.heap[0]
        add_group_tokens(state, best, state.flights[flight].total_tokens)
        push(state.group_queues, best, state.after_decode, flight)
        place_in_group(state, best)


@compiled
def add_group_tokens(state: State, node: int, tokens: int) -> None:
    group = node - state.rules[0].prefill_nodes
    set_value(state.group_tokens, group, state.group_tokens.values[group] + tokens)


@compiled
def place_in_group(state: State, node: int) -> None:
    """DE phase 2: fewest requests among engines that stay under the threshold Z, else fewest tokens."""
    if not state.group_queues[node].length:
        return
    rules = state.rules[0]
    first = rules.num_prefill + (node - rules.prefill_nodes) * rules.engines_per_decode_node
    end = first + rules.engines_per_decode_node
    threshold = _threshold(state, node, first, end)
    while state.group_queues[node].length:
        flight = state.group_queues[node].head
        total_tokens, total_blocks = state.flights[flight].total_tokens, state.flights[flight].total_blocks
        low, high = NONE, NONE
        for engine in range(first, end):
            if not hbm_fits(state, engine, total_blocks):
                continue
            if state.engines[engine].tokens + total_tokens <= threshold:
                if low == NONE or _fewer_requests(state, engine, low):
                    low = engine
            elif high == NONE or state.engines[engine].tokens < state.engines[high].tokens:
                high = engine
        if low == NONE and high == NONE:
            return
        pop(state.group_queues, node, state.after_decode)
        add_group_tokens(state, node, -total_tokens)
        take_decode(state, flight, low if low != NONE else high)


@compiled
def _threshold(state: State, node: int, first: int, end: int) -> float:
    """Z: with the longest prefix of the private queue that fits in the group's free HBM, fragmentation aside."""
    free_blocks, held_tokens = 0, 0
    for engine in range(first, end):
        free_blocks += state.engines[engine].hbm_blocks - state.engines[engine].hbm_used
        held_tokens += state.engines[engine].tokens
    prefix_tokens = 0
    flight = state.group_queues[node].head
    while flight != NONE:
        free_blocks -= state.flights[flight].total_blocks
        if free_blocks < 0:
            break
        prefix_tokens += state.flights[flight].total_tokens
        flight = state.after_decode[flight]
    return state.rules[0].z_factor * (prefix_tokens + held_tokens) / (end - first)


@compiled
def _fewer_requests(state: State, engine: int, than: int) -> bool:
    """Ties, which the paper leaves open: fewest tokens, then the lower number."""
    if state.engines[engine].requests != state.engines[than].requests:
        return state.engines[engine].requests < state.engines[than].requests
    return state.engines[engine].tokens < state.engines[than].tokens


@compiled
def hbm_fits(state: State, engine: int, blocks: int) -> bool:
    return state.engines[engine].hbm_used + blocks <= state.engines[engine].hbm_blocks


@compiled
def take_prefill(state: State, flight: int, engine: int) -> None:
    state.flights[flight].prefill_engine = engine
    state.engines[engine].tokens += state.flights[flight].prompt_tokens
    state.engines[engine].requests += 1
    note_tokens(state, state.engines[engine].node)
    _note_placed(state, flight)


@compiled
def take_decode(state: State, flight: int, engine: int) -> None:
    """Also reserves HBM, for prompt and output: the paper's phase 2 counts it from here on."""
    state.flights[flight].decode_engine = engine
    state.engines[engine].tokens += state.flights[flight].total_tokens
    state.engines[engine].requests += 1
    state.engines[engine].hbm_used += state.flights[flight].total_blocks
    add_group_tokens(state, state.engines[engine].node, state.flights[flight].total_tokens)
    _note_placed(state, flight)


@compiled
def _note_placed(state: State, flight: int) -> None:
    if state.flights[flight].prefill_engine != NONE and state.flights[flight].decode_engine != NONE:
        push(state.placed, 0, state.after, flight)


@compiled
def leave_prefill(state: State, flight: int) -> None:
    engine = state.flights[flight].prefill_engine
    state.engines[engine].tokens -= state.flights[flight].prompt_tokens
    state.engines[engine].requests -= 1
    note_tokens(state, state.engines[engine].node)


@compiled
def leave_decode(state: State, flight: int) -> None:
    engine = state.flights[flight].decode_engine
    state.engines[engine].tokens -= state.flights[flight].total_tokens
    state.engines[engine].requests -= 1
    state.engines[engine].hbm_used -= state.flights[flight].total_blocks
    add_group_tokens(state, state.engines[engine].node, -state.flights[flight].total_tokens)
