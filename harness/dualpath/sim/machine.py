"""The simulator's main loop: what happens next, told to the scheduler; what it answers, started.

    due turns (core/agents.py) --\
    events (reads, passes, ...) --+--> the earliest --> steps.* (core: the scheduler) --> commands --> links, passes
    decode groups (timers)     --/

At one time, reports come first, then events (by kind, then flight or engine), decode groups, due turns.
"""

from __future__ import annotations

from dualpath.core import steps
from dualpath.core.agents import NUM_LIVE, turn_ended
from dualpath.core.answers import ADMIT, ASSIGNED, DECODE_START, PREFILL_BATCH, READ
from dualpath.core.batch import attention_ns
from dualpath.core.compiled import compiled
from dualpath.core.heap import put, take
from dualpath.core.hops import STAGES, batch_tokens, stored_tokens
from dualpath.core.least import NEVER, set_value
from dualpath.core.queues import NONE
from dualpath.core.records import Integers
from dualpath.core.state import PREFILL
from dualpath.sim.decode import ask_to_join, go_to_boundary, join, leave, next_step_ns, plan, planned_ns, take_ended
from dualpath.sim.links import (
    CNIC,
    MODEL_TRAFFIC,
    ROUTE_DECODE,
    ROUTE_MISS,
    ROUTE_PERSIST,
    ROUTE_PREFILL,
    carry,
    serve,
)
from dualpath.sim.parts import Parts
from dualpath.sim.sharing import price_steps, shared_pass_ns

READ_DONE, COMPUTED, SENT, FREED, JOIN, ENDED, DUE, REPORTED = range(8)  # kinds; the first six in order at one time
DONE, ROWS_FULL, NEED_ARRIVALS, NEED_ROOM, PAUSED, STUCK = range(6)  # why `go_on` returned

_READ_PREFILL, _LOAD_PREFILL = STAGES.index("read-prefill"), STAGES.index("load-prefill")
_READ_DECODE, _LOAD_DECODE = STAGES.index("read-decode"), STAGES.index("load-decode")
_FORWARD, _START = STAGES.index("forward"), STAGES.index("start")
_STAGE_OUT, _STORE = STAGES.index("stage-out"), STAGES.index("store")


@compiled
def go_on(parts: Parts, horizon_ns: int, most_events: int) -> int:
    """Simulate until all is done, or until the caller has something to do. Nothing at or after horizon_ns happens:
    trajectories that arrive then have not been taken yet."""
    counts = parts.counts[0]
    until = counts.events + most_events
    keeps_log = len(parts.log) > 0
    while counts.events < until:
        event_ns = parts.events.rows[0].a if parts.events.size[0] else NEVER
        group = parts.timers.heap[0]
        group_ns = parts.timers.values[group]
        due_ns = NEVER
        if parts.agents.due.size[0]:
            due_ns = parts.agents.due.rows[0].a + int(parts.costs[0].request_ns)
        now_ns = min(event_ns, group_ns, due_ns)
        if now_ns >= horizon_ns:
            return NEED_ARRIVALS
        if now_ns == NEVER:
            return DONE if parts.agents.counts[NUM_LIVE] == 0 else STUCK
        if counts.turns == len(parts.turn_rows) or counts.passes == len(parts.pass_rows):
            return ROWS_FULL
        if keeps_log and counts.log == len(parts.log):
            return ROWS_FULL
        reports = parts.costs[0].report_ns > 0 and counts.next_report_ns <= now_ns
        if reports:
            now_ns = counts.next_report_ns
        counts.now_ns = max(counts.now_ns, now_ns)
        if reports:
            counts.events += 1
            counts.next_report_ns += parts.costs[0].report_ns
            _note(parts, REPORTED, 0, 0, 0)
            steps.queues_reported(parts.state)
            _execute(parts)
        elif event_ns == now_ns:
            counts.events += 1
            _, kind, subject, payload = take(parts.events)
            _happen(parts, kind, subject, payload)
        elif group_ns == now_ns:
            counts.events += 1
            _visit(parts, group)
        else:
            if parts.state.counts[0].num_free == 0:
                return NEED_ROOM
            counts.events += 1
            _turn_due(parts)
    return PAUSED


@compiled
def _happen(parts: Parts, kind: int, subject: int, payload: int) -> None:
    now_ns = parts.counts[0].now_ns
    if kind == READ_DONE:
        flight, side = subject, payload
        parts.marks[flight].read_end_ns = max(parts.marks[flight].read_end_ns, now_ns)
        _note(parts, kind, parts.marks[flight].request, side, 0)
        steps.read_done(parts.state, flight, side)
    elif kind == COMPUTED:
        _computed(parts, subject, payload)
    elif kind == SENT:
        engine, first = subject, payload
        _note(parts, kind, engine, parts.batch[first], 0)
        _mark_sent(parts, first)
        steps.prefill_sent(parts.state, first, engine)
    elif kind == FREED:
        _note(parts, kind, parts.marks[subject].request, 0, 0)
        steps.buffer_freed(parts.state, subject)
    elif kind == JOIN:
        _ask_to_join(parts, subject)
        return
    else:
        _turn_ended(parts, subject)
    _execute(parts)


@compiled
def _turn_due(parts: Parts) -> None:
    due_ns, number, turn, slot = take(parts.agents.due)
    now_ns = parts.counts[0].now_ns
    row = parts.turns[parts.agents.slots[slot].first_turn + turn]
    hit_blocks = row.planned_hit_tokens // parts.costs[0].block_tokens
    flight = parts.state.free[parts.state.counts[0].num_free - 1]  # the one that steps.turn_due takes
    parts.slots[flight] = slot
    mark = parts.marks[flight]
    mark.request = parts.counts[0].requests
    parts.counts[0].requests += 1
    mark.trajectory, mark.turn = number, turn
    mark.append_tokens, mark.generate_tokens = row.append_tokens, row.generate_tokens
    mark.prompt_tokens, mark.planned_hit_tokens = row.prompt_tokens, row.planned_hit_tokens
    mark.hit_tokens = hit_blocks * parts.costs[0].block_tokens
    mark.decode_side_tokens = 0
    mark.due_ns, mark.released_ns = due_ns, now_ns
    mark.prefill_engine, mark.decode_engine = NONE, NONE
    mark.scheduled_ns, mark.read_start_ns, mark.read_end_ns = NONE, NONE, NONE
    mark.prefill_start_ns, mark.prefill_end_ns = NONE, NONE
    mark.first_token_ns, mark.second_token_ns, mark.end_ns = NONE, NONE, NONE
    _note_due(parts, flight, hit_blocks)
    steps.turn_due(parts.state, row.prompt_tokens, row.generate_tokens, hit_blocks)
    _execute(parts)


@compiled
def _execute(parts: Parts) -> None:
    """Start what the scheduler has just said. Nothing here tells it anything: that is the events' business."""
    state, now_ns = parts.state, parts.counts[0].now_ns
    place = 0
    while place < state.counts[0].num_commands:
        command = state.commands[place]
        kind, flight = command[0], command[1]
        mark = parts.marks[flight]
        if kind == ASSIGNED:
            mark.scheduled_ns = now_ns
            mark.prefill_engine, mark.decode_engine = command[2], command[3]
            mark.decode_side_tokens = mark.hit_tokens - command[4] * parts.costs[0].block_tokens
            mark.prefill_queue_tokens = command[5] * parts.costs[0].block_tokens
            mark.decode_queue_tokens = command[6] * parts.costs[0].block_tokens
        elif kind == ADMIT:
            mark.read_start_ns = now_ns
            if mark.hit_tokens == 0:
                mark.read_end_ns = now_ns
        elif kind == READ:
            _read(parts, flight, command[2], command[3], command[5])
        elif kind == PREFILL_BATCH:
            end = place + 1
            group = command[2] // parts.costs[0].pass_engines
            while end < state.counts[0].num_commands and _is_of_pass(parts, state.commands[end], group):
                end += 1
            _start_pass(parts, place, end)
            place = end - 1
        elif kind == DECODE_START:
            _start_decode(parts, flight)
        place += 1


@compiled
def _is_of_pass(parts: Parts, command: Integers, group: int) -> bool:
    return command[0] == PREFILL_BATCH and command[2] // parts.costs[0].pass_engines == group


@compiled
def _read(parts: Parts, flight: int, side: int, engine: int, num_blocks: int) -> None:
    """Through the node's storage NIC into its DRAM, no faster than the engine's storage client."""
    now_ns, end_ns = parts.counts[0].now_ns, parts.counts[0].now_ns
    if parts.costs[0].moves_kv:
        stage, route = (_READ_PREFILL, ROUTE_PREFILL) if side == PREFILL else (_READ_DECODE, ROUTE_DECODE)
        tokens = num_blocks * parts.costs[0].block_tokens
        end_ns = _move(parts, flight, stage, route, tokens, num_blocks, now_ns)
        start_ns = max(now_ns, parts.client_free_ns[engine])
        client_ns = start_ns + int(tokens * parts.costs[0].kv_bytes * parts.costs[0].client_ns_per_byte)
        parts.client_free_ns[engine] = client_ns
        end_ns = max(end_ns, client_ns)
    put(parts.events, end_ns, READ_DONE, flight, side)


@compiled
def _start_pass(parts: Parts, begin: int, end: int) -> None:
    """One forward pass of a pass group: commands [begin, end) are its engines' batches. It takes as long as its slowest
    engine: data-parallel attention and dense layers meet at the experts.

    Layerwise, layer i is loaded while layer i - 1 computes: the pass ends no sooner than its arithmetic, and no sooner
    than its last load and one layer. Otherwise all of it is loaded, then computed.
    """
    state, costs, now_ns = parts.state, parts.costs[0], parts.counts[0].now_ns
    slowest_ns, attention_max, attention_sum = 0.0, 0.0, 0.0
    new_tokens, context_tokens, requests = 0, 0, 0
    loaded_ns, exchange_ns = now_ns, 0
    for place in range(begin, end):
        attention = 0.0
        batch_new = 0
        flight = state.commands[place, 1]
        parts.batch[flight] = parts.counts[0].batches
        parts.counts[0].batches += 1
        while flight != NONE:
            request = state.flights[flight]
            attention += attention_ns(
                request.cached_tokens,
                request.chunk_tokens,
                costs.attention_ns_per_pair,
                costs.attention_ns_per_context,
            )
            batch_new += request.chunk_tokens
            context_tokens += request.cached_tokens + request.chunk_tokens
            requests += 1
            if costs.moves_kv:
                loaded_ns = max(loaded_ns, _load(parts, flight))
            flight = state.after[flight]
        slowest_ns = max(slowest_ns, attention + costs.prefill_ns_per_token * batch_new)
        attention_max = max(attention_max, attention)
        attention_sum += attention
        new_tokens += batch_new
        if costs.model_bytes_per_token:
            exchange_ns = max(exchange_ns, _exchange(parts, state.commands[place, 2], batch_new, now_ns))
    group = state.commands[begin, 2] // costs.pass_engines
    compute_ns = shared_pass_ns(parts, group, new_tokens, int(costs.pass_ns + slowest_ns)) + exchange_ns
    start_ns = max(now_ns, parts.pass_free_ns[group])
    if costs.layerwise:
        end_ns = max(start_ns + compute_ns, loaded_ns + compute_ns // costs.layers)
    else:
        start_ns = max(start_ns, loaded_ns)
        end_ns = start_ns + compute_ns
    parts.pass_free_ns[group] = end_ns
    for place in range(begin, end):
        first = state.commands[place, 1]
        parts.pass_start_ns[first] = start_ns
        put(parts.events, end_ns, COMPUTED, state.commands[place, 2], first)
    row = parts.pass_rows[parts.counts[0].passes]
    parts.counts[0].passes += 1
    row.group, row.start_ns, row.end_ns, row.busy_engines = group, start_ns, end_ns, end - begin
    row.requests, row.new_tokens, row.context_tokens = requests, new_tokens, context_tokens
    row.attention_max_ns, row.attention_mean_ns = attention_max, attention_sum / costs.pass_engines


@compiled
def _exchange(parts: Parts, engine: int, new_tokens: int, at_ns: int) -> int:
    """What stands for a pass's collectives: bytes to a decode engine and as many back; returns what they take. All
    layers' at once, when the pass is issued: of their own lane, so what KV does meanwhile changes little."""
    links, costs = parts.links, parts.costs[0]
    num_prefill = len(parts.pass_free_ns) * costs.pass_engines
    peer = num_prefill + engine % (links.shape[1] - num_prefill)
    num_bytes = int(new_tokens * costs.model_bytes_per_token)
    end_ns = at_ns
    for source, target in ((engine, peer), (peer, engine)):
        sent_ns = serve(links, CNIC, 0, source, 0, MODEL_TRAFFIC, num_bytes, 0.0, end_ns)
        end_ns = max(sent_ns, serve(links, CNIC, 0, target, 1, MODEL_TRAFFIC, num_bytes, 0.0, end_ns))
    return end_ns - at_ns


@compiled
def _load(parts: Parts, flight: int) -> int:
    """Into device memory what a request's share of the batch attends to; returns when it is there."""
    now_ns = parts.counts[0].now_ns
    prefill, decode, again, _, _ = _batch_tokens(parts, flight)
    end_ns = _move(parts, flight, _LOAD_PREFILL, ROUTE_PREFILL, prefill, 0, now_ns)
    end_ns = max(end_ns, _move(parts, flight, _LOAD_DECODE, ROUTE_DECODE, decode, 0, now_ns))
    return max(end_ns, _move(parts, flight, _LOAD_DECODE, ROUTE_MISS, again, 0, now_ns))


@compiled
def _computed(parts: Parts, engine: int, first: int) -> None:
    """A batch has its last layer: first tokens are out; its KV goes to the DE buffers, layer by layer since the pass
    began where it is layerwise, so that only the last layer is left to send."""
    state, now_ns = parts.state, parts.counts[0].now_ns
    start_ns = parts.pass_start_ns[first]
    begin_ns = start_ns if parts.costs[0].layerwise else now_ns
    sent_ns = now_ns
    flight = first
    while flight != NONE:
        request, mark = state.flights[flight], parts.marks[flight]
        if mark.prefill_start_ns == NONE:
            mark.prefill_start_ns = start_ns
        if request.cached_tokens + request.chunk_tokens == request.prompt_tokens:
            mark.first_token_ns = now_ns
        if parts.costs[0].moves_kv:
            _, _, _, new, forward = _batch_tokens(parts, flight)
            miss_ns = _move(parts, flight, _FORWARD, ROUTE_MISS, new, 0, begin_ns)
            hit_ns = _move(parts, flight, _FORWARD, ROUTE_PREFILL, forward, 0, begin_ns)
            sent_ns = max(sent_ns, max(miss_ns, hit_ns))
        flight = state.after[flight]
    if parts.costs[0].layerwise and parts.costs[0].moves_kv:
        sent_ns = max(sent_ns, now_ns + (sent_ns - begin_ns) // parts.costs[0].layers)
    put(parts.events, sent_ns, SENT, engine, first)
    _note(parts, COMPUTED, engine, parts.batch[first], start_ns)
    steps.prefill_computed(state, engine)


@compiled
def _batch_tokens(parts: Parts, flight: int) -> tuple[int, int, int, int, int]:
    request, block_tokens = parts.state.flights[flight], parts.costs[0].block_tokens
    return batch_tokens(
        request.hit_blocks * block_tokens,
        request.prefill_blocks * block_tokens,
        request.cached_tokens,
        request.chunk_tokens,
    )


@compiled
def _mark_sent(parts: Parts, first: int) -> None:
    flight = first
    while flight != NONE:
        request = parts.state.flights[flight]
        if request.cached_tokens + request.chunk_tokens == request.prompt_tokens:
            parts.marks[flight].prefill_end_ns = parts.counts[0].now_ns
        flight = parts.state.after[flight]


@compiled
def _start_decode(parts: Parts, flight: int) -> None:
    """The prompt's KV goes from the DE buffer into device memory, its new blocks to storage; then decode may join."""
    now_ns, mark, request = parts.counts[0].now_ns, parts.marks[flight], parts.state.flights[flight]
    block_tokens = parts.costs[0].block_tokens
    there_ns, stored_ns = now_ns, now_ns
    if parts.costs[0].moves_kv:
        prefill_tokens = request.prefill_blocks * block_tokens
        decode_tokens = mark.hit_tokens - prefill_tokens
        miss_tokens = mark.prompt_tokens - mark.hit_tokens
        there_ns = _move(parts, flight, _START, ROUTE_PREFILL, prefill_tokens, 0, now_ns)
        there_ns = max(there_ns, _move(parts, flight, _START, ROUTE_DECODE, decode_tokens, 0, now_ns))
        there_ns = max(there_ns, _move(parts, flight, _START, ROUTE_MISS, miss_tokens, 0, now_ns))
        stored, _ = stored_tokens(mark.prompt_tokens, mark.generate_tokens, mark.hit_tokens, block_tokens)
        stored_ns = _move(parts, flight, _STORE, ROUTE_PERSIST, stored, stored // block_tokens, now_ns)
    freed_ns = max(there_ns, stored_ns)
    mark.persisted_ns = freed_ns
    put(parts.events, freed_ns, FREED, flight, 0)
    if mark.generate_tokens == 1:
        mark.end_ns = mark.first_token_ns
        put(parts.events, freed_ns, ENDED, flight, 0)
    else:
        put(parts.events, there_ns + int(parts.costs[0].handoff_ns), JOIN, flight, 0)


@compiled
def _ask_to_join(parts: Parts, flight: int) -> None:
    engine = parts.state.flights[flight].decode_engine - parts.state.rules[0].num_prefill
    group = engine // parts.costs[0].step_engines
    set_value(parts.timers, group, ask_to_join(parts.decode, group, flight, parts.counts[0].now_ns))


@compiled
def _visit(parts: Parts, group: int) -> None:
    """A decode group is at a step boundary where requests end or join."""
    state, decode = parts.state, parts.decode
    num_prefill = state.rules[0].num_prefill
    go_to_boundary(decode, group)
    flight = take_ended(decode, group)
    while flight != NONE:
        mark = parts.marks[flight]
        leave(decode, state.flights[flight].decode_engine - num_prefill, mark.prompt_tokens + mark.generate_tokens - 1)
        _finish(parts, flight)
        flight = take_ended(decode, group)
    num_joined, flight = 0, decode.groups[group].first_joining
    decode.groups[group].first_joining = NONE
    while flight != NONE:
        behind = decode.next[flight]
        mark, engine = parts.marks[flight], state.flights[flight].decode_engine - num_prefill
        join(decode, group, flight, engine, mark.prompt_tokens, mark.generate_tokens - 1)
        parts.joined[num_joined] = flight
        num_joined, flight = num_joined + 1, behind
    if decode.groups[group].requests == 0:
        set_value(parts.timers, group, NEVER)
        return
    price_steps(parts, group)
    second_ns = next_step_ns(decode, group)
    for place in range(num_joined):
        parts.marks[parts.joined[place]].second_token_ns = second_ns
    plan(decode, group)
    set_value(parts.timers, group, planned_ns(decode, group))


@compiled
def _finish(parts: Parts, flight: int) -> None:
    """The last token is out. The blocks that decode filled go to storage; only then may the next turn hit them."""
    now_ns, mark, block_tokens = parts.counts[0].now_ns, parts.marks[flight], parts.costs[0].block_tokens
    mark.end_ns = now_ns
    if parts.costs[0].moves_kv:
        _, filled = stored_tokens(mark.prompt_tokens, mark.generate_tokens, mark.hit_tokens, block_tokens)
        out_ns = _move(parts, flight, _STAGE_OUT, ROUTE_PERSIST, filled, 0, now_ns)
        stored_ns = _move(parts, flight, _STORE, ROUTE_PERSIST, filled, filled // block_tokens, out_ns)
        mark.persisted_ns = max(mark.persisted_ns, stored_ns)
    put(parts.events, max(now_ns, mark.persisted_ns), ENDED, flight, 0)


@compiled
def _turn_ended(parts: Parts, flight: int) -> None:
    mark, counts = parts.marks[flight], parts.counts[0]
    mark.persisted_ns = counts.now_ns
    parts.turn_rows[counts.turns] = mark
    counts.turns += 1
    counts.last_end_ns = max(counts.last_end_ns, mark.end_ns)
    _note(parts, ENDED, mark.request, mark.second_token_ns, mark.end_ns)
    turn_ended(parts.agents, parts.turns, parts.slots[flight], mark.turn, mark.end_ns)
    steps.turn_ended(parts.state, flight)


@compiled
def _move(parts: Parts, flight: int, stage: int, route: int, tokens: int, num_blocks: int, at_ns: int) -> int:
    """Charge one movement of the hop table for a request's pair of engines; returns when it is done."""
    if tokens == 0:
        return at_ns
    request = parts.state.flights[flight]
    prefill_engine, decode_engine = request.prefill_engine, request.decode_engine
    return carry(
        parts.links,
        stage,
        route,
        parts.state.engines[prefill_engine].node,
        prefill_engine,
        parts.state.engines[decode_engine].node,
        decode_engine,
        tokens * parts.costs[0].kv_bytes,
        num_blocks,
        at_ns,
    )


@compiled
def _note(parts: Parts, kind: int, subject: int, a: int, b: int) -> None:
    """Keep an event that the scheduler is told: witness.py reads it."""
    if len(parts.log) > 0:
        row = parts.log[parts.counts[0].log]
        row[0], row[1], row[2], row[3], row[4] = parts.counts[0].now_ns, kind, subject, a, b
        parts.counts[0].log += 1


@compiled
def _note_due(parts: Parts, flight: int, hit_blocks: int) -> None:
    if len(parts.log) > 0:
        mark, row = parts.marks[flight], parts.log[parts.counts[0].log]
        _note(parts, DUE, mark.request, mark.trajectory, mark.turn)
        row[5], row[6], row[7] = mark.prompt_tokens, mark.generate_tokens, hit_blocks
