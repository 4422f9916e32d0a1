"""States set up by hand, for tests of single functions of the scheduler."""

from __future__ import annotations

from dualpath.core.placement import add_group_tokens, note_tokens
from dualpath.core.queues import NONE
from dualpath.core.state import State


def take_flight(state: State, prompt_tokens: int, generate_tokens: int = 1, cached_tokens: int = 0) -> int:
    """A flight as one that has just fallen due, that waits nowhere yet."""
    block_tokens = state.rules[0].block_tokens
    state.counts[0].num_free -= 1
    flight = int(state.free[state.counts[0].num_free])
    request = state.flights[flight]
    request.prompt_tokens = prompt_tokens
    request.total_tokens = prompt_tokens + generate_tokens
    request.prompt_blocks = -(-prompt_tokens // block_tokens)
    request.total_blocks = -(-request.total_tokens // block_tokens)
    request.prefill_engine = request.decode_engine = NONE
    request.cached_tokens = cached_tokens
    return flight


def carry(state: State, engine: int, tokens: int, requests: int = 0, hbm_blocks: int = 0) -> None:
    """Give an engine somebody else's work, which never ends."""
    carrier = state.engines[engine]
    carrier.tokens += tokens
    carrier.requests += requests
    carrier.hbm_used += hbm_blocks
    if engine >= state.rules[0].num_prefill:
        add_group_tokens(state, carrier.node, tokens)
    else:
        note_tokens(state, carrier.node)
