"""Which requests form a prefill engine's next forward batch (paper 5.5).

With data-parallel attention the engines of a group meet at the FFN, so a batch is limited by the attention time
it is predicted to take; a request that would exceed it is cut, and its rest waits for the next batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A request whose KV is loaded: `cached_tokens` have KV, `new_tokens` are still to compute."""

    request: int
    cached_tokens: int
    new_tokens: int


@dataclass(frozen=True, slots=True)
class BatchLimits:
    quota_ns: float | None  # predicted attention time; None: no quota
    attention_ns_per_pair: float
    hbm_blocks: int  # Layer Blocks of one layer the engine may hold for a batch
    block_tokens: int


def attention_ns(cached_tokens: int, new_tokens: int, ns_per_pair: float) -> float:
    """Predicted attention time: each new token attends to the cached ones, the new ones before it and itself."""
    return ns_per_pair * new_tokens * (cached_tokens + (new_tokens + 1) / 2)


def select_batch(ready: Iterable[Candidate], limits: BatchLimits) -> list[tuple[Candidate, int]]:
    """Take requests in FIFO order while they fit; returns (candidate, tokens to compute now).

    A request over the quota is cut to the largest chunk that still fits, and ends the batch. The first request
    of a batch always gets at least one block, so that work never stalls on a quota that is too small.
    """
    batch: list[tuple[Candidate, int]] = []
    spent_ns = 0.0
    free_blocks = limits.hbm_blocks
    for candidate in ready:
        blocks = -(-(candidate.cached_tokens + candidate.new_tokens) // limits.block_tokens)
        if blocks > free_blocks:
            break
        take = candidate.new_tokens
        if limits.quota_ns is not None:
            take = _largest_chunk(candidate, limits.quota_ns - spent_ns, limits.attention_ns_per_pair)
            if not batch:
                take = max(take, min(candidate.new_tokens, limits.block_tokens))
            if take == 0:
                break
        batch.append((candidate, take))
        if take < candidate.new_tokens:
            break
        spent_ns += attention_ns(candidate.cached_tokens, take, limits.attention_ns_per_pair)
        free_blocks -= blocks
    return batch


def _largest_chunk(candidate: Candidate, budget_ns: float, ns_per_pair: float) -> int:
    """Binary search, as in the paper, for the most new tokens whose attention fits the budget."""
    low, high = 0, candidate.new_tokens
    while low < high:
        middle = (low + high + 1) // 2
        if attention_ns(candidate.cached_tokens, middle, ns_per_pair) <= budget_ns:
            low = middle
        else:
            high = middle - 1
    return low
