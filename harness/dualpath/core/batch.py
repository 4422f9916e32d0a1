"""Which requests form a prefill engine's next forward batch (paper 5.5).

With data-parallel attention the engines of a group meet at the FFN, so a batch is limited by the attention time
it is predicted to take; a request that would exceed it is cut, and its rest waits for the next batch.
"""

from __future__ import annotations

from dualpath.core.compiled import compiled
from dualpath.core.queues import NONE, pop
from dualpath.core.state import State


@compiled
def attention_ns(cached_tokens: int, new_tokens: int, ns_per_pair: float, ns_per_context: float) -> float:
    """Predicted attention time: each new token attends to the cached ones, the new ones before it and itself; and
    what every token of the context costs once per pass, whatever is new (such as reading its KV)."""
    pairs = new_tokens * (cached_tokens + (new_tokens + 1) / 2)
    return ns_per_pair * pairs + ns_per_context * (cached_tokens + new_tokens)


@compiled
def largest_chunk(
    cached_tokens: int, new_tokens: int, budget_ns: float, ns_per_pair: float, ns_per_context: float
) -> int:
    """Binary search, as in the paper, for the most new tokens whose attention fits the budget."""
    low, high = 0, new_tokens
    while low < high:
        middle = (low + high + 1) // 2
        if attention_ns(cached_tokens, middle, ns_per_pair, ns_per_context) <= budget_ns:
            low = middle
        else:
            high = middle - 1
    return low


@compiled
def select_batch(state: State, engine: int) -> int:
    """Take ready requests of a PE in FIFO order while they fit; returns the first, NONE where nothing is ready.

    The others follow through `state.after`; each one's `chunk_tokens` says what is computed now. A request over the
    quota is cut to the largest chunk that still fits, and ends the batch. The first request of a batch always gets at
    least one block, so that work never stalls on a quota that is too small.
    """
    rules = state.rules[0]
    first, last = NONE, NONE
    spent_ns = 0.0
    free_blocks = rules.pass_blocks
    while state.ready_queues[engine].length:
        flight = state.ready_queues[engine].head
        prompt_tokens, cached_tokens = state.flights[flight].prompt_tokens, state.flights[flight].cached_tokens
        new_tokens = prompt_tokens - cached_tokens
        free_blocks -= state.flights[flight].prompt_blocks
        if free_blocks < 0:
            break
        take = largest_chunk(
            cached_tokens,
            new_tokens,
            rules.quota_ns - spent_ns,
            rules.attention_ns_per_pair,
            rules.attention_ns_per_context,
        )
        if first == NONE:
            take = max(take, min(new_tokens, rules.block_tokens))
        if take == 0:
            break
        pop(state.ready_queues, engine, state.after)
        state.flights[flight].chunk_tokens = take
        state.after[flight] = NONE
        if first == NONE:
            first = flight
        else:
            state.after[last] = flight
        last = flight
        if take < new_tokens:
            break
        spent_ns += attention_ns(cached_tokens, take, rules.attention_ns_per_pair, rules.attention_ns_per_context)
    return first
