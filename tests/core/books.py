"""The scheduler's books, a `State`, as tests read them; and what must be true of them between events."""

from __future__ import annotations

import numpy as np
from dualpath.core.queues import NONE
from dualpath.core.records import Integers, Records
from dualpath.core.state import DECODE, PREFILL, State


def read_queues(state: State) -> list[int]:
    """Blocks that wait on the storage NIC, by node."""
    return state.nodes["read_queue_blocks"].tolist()


def tokens(state: State) -> list[int]:
    """tok_e, by engine; so are the next three."""
    return state.engines["tokens"].tolist()


def requests(state: State) -> list[int]:
    return state.engines["requests"].tolist()


def buffer_used(state: State) -> list[int]:
    """Blocks of PE buffers, then of DE buffers."""
    return state.engines["buffer_used"].tolist()


def hbm_used(state: State) -> list[int]:
    return state.engines["hbm_used"].tolist()


def members(queues: Records, queue: int, after: Integers) -> list[int]:
    """A queue's flights, from its head; the links must lead to its tail in as many steps as its length says."""
    head, tail, length = queues[queue].item()
    flights: list[int] = []
    flight = head if length else NONE
    while flight != NONE:
        assert len(flights) < length, "longer than its length"
        flights.append(flight)
        flight = int(after[flight])
    assert len(flights) == length, "shorter than its length"
    assert not flights or flights[-1] == tail
    return flights


def arrivals(state: State, side: int) -> list[int]:
    return members(state.arrivals, side, state.after_prefill if side == PREFILL else state.after_decode)


def private_queue(state: State, node: int) -> list[int]:
    """Of a decode group."""
    return members(state.group_queues, node, state.after_decode)


def half_placed_tokens(state: State) -> list[int]:
    """Part of tok_e, by engine: requests that have this engine and wait for one on the other side."""
    counted = [0] * len(state.engines)
    waiting = {flight for node in range(len(state.nodes)) for flight in private_queue(state, node)}
    sides = (("prefill_engine", "prompt_tokens"), ("decode_engine", "total_tokens"))
    for flight in waiting | {*arrivals(state, PREFILL), *arrivals(state, DECODE)}:
        for engine, tokens_there in sides:
            if state.flights[engine][flight] != NONE:
                counted[state.flights[engine][flight]] += int(state.flights[tokens_there][flight])
    return counted


def check(state: State) -> None:
    """What is true between any two events."""
    _check_engines(state)
    _check_links(state)
    rules = state.rules[0]
    assert not state.placed[0].length, "a placed request has its route at once"
    assert state.counts[0].num_commands <= len(state.commands), "compiled code would write past the end"
    for node in range(rules.num_nodes):
        of_node = state.engines["tokens"][state.engines["node"] == node]
        private = state.flights["total_tokens"][private_queue(state, node)].sum()
        decode = node >= rules.prefill_nodes
        if decode:
            assert state.group_tokens.values[node - rules.prefill_nodes] == of_node.sum() + private
        assert state.nodes[node].read_queue_blocks >= 0
        assert decode or not private
        if not decode:
            first = node * rules.engines_per_prefill_node
            assert state.nodes[node].least_engine == first + of_node.argmin(), "Algorithm 1 would look at the wrong one"
            assert state.nodes[node].least_tokens == of_node.min()
    for engine in range(rules.num_prefill):
        ranks = state.flights["rank"][members(state.ready_queues, engine, state.after)].tolist()
        assert ranks == sorted(set(ranks)), "loaded requests go first come, first served"


def check_decode_engines(state: State) -> None:
    """A DE carries the requests that were sent to it and have not ended, and nothing else."""
    in_use = np.ones(len(state.flights), bool)
    in_use[_free(state)] = False
    flights = state.flights[in_use]
    for engine in range(state.rules[0].num_prefill, state.rules[0].num_engines):
        own = flights["decode_engine"] == engine
        assert state.engines[engine].requests == own.sum()
        assert state.engines[engine].tokens == flights["total_tokens"][own].sum()
        assert state.engines[engine].hbm_used == flights["total_blocks"][own].sum()


def check_idle(state: State) -> None:
    """Nothing is held, nobody waits, every flight is free."""
    check(state)
    for held in ("tokens", "requests", "buffer_used", "hbm_used", "num_batches"):
        assert not state.engines[held].any()
    assert not any(read_queues(state))
    for queues in (state.arrivals, state.group_queues, state.buffer_queues, state.ready_queues):
        assert not queues["length"].any()
    assert len(_free(state)) == len(state.flights)


def _check_engines(state: State) -> None:
    rules, engines = state.rules[0], state.engines
    for used in ("tokens", "requests", "buffer_used", "hbm_used", "num_batches"):
        assert engines[used].min() >= 0, used
    assert (engines["buffer_used"] <= engines["buffer_blocks"]).all()
    assert (engines["hbm_used"] <= engines["hbm_blocks"]).all()
    assert engines["num_batches"].max() <= rules.prefill_in_flight
    assert rules.holds_hbm or not engines["hbm_used"][: rules.num_prefill].any()


def _check_links(state: State) -> None:
    """A flight is free or in use, and at one place of those that share a link."""
    free = _free(state)
    assert len(set(free)) == len(free)
    assert set(free) <= set(range(len(state.flights)))
    shared = [members(state.buffer_queues, engine, state.after) for engine in range(len(state.buffer_queues))]
    shared += [members(state.ready_queues, engine, state.after) for engine in range(len(state.ready_queues))]
    decode = [arrivals(state, DECODE), *(private_queue(state, node) for node in range(len(state.group_queues)))]
    for queues in (shared, [arrivals(state, PREFILL)], decode):
        flights = [flight for queue in queues for flight in queue]
        assert len(set(flights)) == len(flights), "in two queues at once"
        assert not set(flights) & set(free), "a free flight waits"


def _free(state: State) -> list[int]:
    return state.free[: state.counts[0].num_free].tolist()
