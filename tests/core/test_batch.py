"""Batch selection against brute force."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import books
import pytest
from by_hand import take_flight
from dualpath.core.arms import ARMS
from dualpath.core.batch import attention_ns, largest_chunk, select_batch
from dualpath.core.queues import NONE, push
from dualpath.core.state import new_state
from hypothesis import given, settings
from hypothesis import strategies as st
from small_cluster import BLOCK_TOKENS, small_cluster

MANY = 10**6


@dataclass(frozen=True)
class Candidate:
    """A request whose KV is loaded: `cached_tokens` have KV, `new_tokens` are still to compute."""

    cached_tokens: int
    new_tokens: int

    @property
    def blocks(self) -> int:
        return -(-(self.cached_tokens + self.new_tokens) // BLOCK_TOKENS)


CANDIDATES = st.lists(st.builds(Candidate, st.integers(0, 30), st.integers(1, 30)), min_size=1, max_size=8)
QUOTAS = st.one_of(st.integers(0, 2000), st.floats(0, 2000))
ROOMS = st.sampled_from([15, 20, 40, MANY])
CONTEXT_COSTS = st.sampled_from([0.0, 0.5, 7.0])


def selected(
    ready: list[Candidate], quota_ns: float = inf, hbm_blocks: int = MANY, ns_per_context: float = 0.0
) -> list[tuple[Candidate, int]]:
    """The batch, (candidate, tokens to compute now) in order, of a PE with these requests ready and no other."""
    state = new_state(small_cluster(prefill=(1, 2), ns_per_context=ns_per_context), ARMS["dualpath"], len(ready) + 1)
    rules, engine = state.rules[0], 1
    rules.quota_ns, rules.pass_blocks = quota_ns, hbm_blocks
    push(state.ready_queues, 0, state.after, take_flight(state, 5))  # somebody else's
    flights: dict[int, Candidate] = {}
    for each in ready:
        flight = take_flight(state, each.cached_tokens + each.new_tokens, cached_tokens=each.cached_tokens)
        push(state.ready_queues, engine, state.after, flight)
        flights[flight] = each
    flight, batch = select_batch(state, engine), []
    while flight != NONE:
        batch.append((flights.pop(flight), int(state.flights[flight].chunk_tokens)))
        flight = state.after[flight]
    assert books.members(state.ready_queues, engine, state.after) == list(flights), "the others are still ready"
    assert state.ready_queues[0].length == 1
    return batch


def test_attention_counts_each_pair_once() -> None:
    """New token i attends to the cached ones and to new ones up to itself."""
    for cached in range(5):
        for new in range(1, 9):
            assert attention_ns(cached, new, 1.0, 0.0) == sum(cached + i + 1 for i in range(new))


def test_the_context_costs_once_whatever_is_new() -> None:
    for cached, new in ((0, 1), (9, 1), (9, 5)):
        pairs_ns = attention_ns(cached, new, 2.0, 0.0)
        assert attention_ns(cached, new, 2.0, 3.0) == pairs_ns + 3 * (cached + new)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 99), st.integers(1, 60), st.one_of(QUOTAS, st.just(inf), st.just(-1.0)), CONTEXT_COSTS)
def test_the_largest_chunk_is_that_of_a_linear_search(cached: int, new: int, budget_ns: float, context: float) -> None:
    fitting = [take for take in range(1, new + 1) if attention_ns(cached, take, 1.0, context) <= budget_ns]
    assert largest_chunk(cached, new, budget_ns, 1.0, context) == max(fitting, default=0)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(CANDIDATES, QUOTAS, ROOMS, CONTEXT_COSTS)
def test_batch_is_the_papers_loop_with_a_linear_search(
    ready: list[Candidate], quota_ns: float, hbm_blocks: int, ns_per_context: float
) -> None:
    expected: list[tuple[Candidate, int]] = []
    spent_ns, blocks = 0.0, 0
    for candidate in ready:
        blocks += candidate.blocks
        if blocks > hbm_blocks:
            break
        costs_ns = [
            attention_ns(candidate.cached_tokens, new, 1.0, ns_per_context) for new in range(candidate.new_tokens + 1)
        ]
        take = max((new for new, cost_ns in enumerate(costs_ns) if cost_ns <= quota_ns - spent_ns), default=0)
        if not expected:
            take = max(take, min(BLOCK_TOKENS, candidate.new_tokens))
        if take:
            expected.append((candidate, take))
        if take < candidate.new_tokens:
            break
        spent_ns += costs_ns[take]
    assert selected(ready, quota_ns, hbm_blocks, ns_per_context) == expected


@settings(max_examples=200, deadline=None, derandomize=True)
@given(CANDIDATES, st.one_of(st.just(inf), st.integers(0, 3000)), ROOMS, CONTEXT_COSTS)
def test_any_batch_is_a_prefix_that_fits_and_cuts_its_last_at_most(
    ready: list[Candidate], quota_ns: float, hbm_blocks: int, ns_per_context: float
) -> None:
    batch = selected(ready, quota_ns, hbm_blocks, ns_per_context)
    assert batch, "the first request always makes progress"
    assert [candidate for candidate, _ in batch] == ready[: len(batch)]
    assert all(take == candidate.new_tokens for candidate, take in batch[:-1])
    assert 1 <= batch[-1][1] <= batch[-1][0].new_tokens
    if len(batch) > 1:
        costs_ns = [attention_ns(candidate.cached_tokens, take, 1.0, ns_per_context) for candidate, take in batch]
        assert sum(costs_ns) <= quota_ns
    assert sum(candidate.blocks for candidate, _ in batch) <= hbm_blocks


def test_without_a_quota_only_device_memory_ends_a_batch() -> None:
    ready = [Candidate(40, 40) for _ in range(5)]
    assert [take for _, take in selected(ready, hbm_blocks=60)] == [40, 40, 40]


def test_a_request_that_fits_the_quota_exactly_is_whole() -> None:
    assert selected([Candidate(10, 4)], 50.0) == [(Candidate(10, 4), 4)]
    assert selected([Candidate(10, 5)], 50.0) == [(Candidate(10, 5), 4)]
    assert selected([Candidate(10, 5)], 64.0, ns_per_context=1.0) == [(Candidate(10, 5), 4)]  # 50 pairs, 14 tokens


@pytest.mark.parametrize("new_tokens", [1, 3, 4, 30])
def test_a_quota_too_small_for_anything_still_lets_one_block_through(new_tokens: int) -> None:
    first, second = Candidate(1000, new_tokens), Candidate(0, 1)
    assert selected([first, second], 0.0) == [(first, min(BLOCK_TOKENS, new_tokens))]


def test_the_quota_is_that_of_the_cluster_in_arms_that_have_one() -> None:
    cluster = small_cluster(quota_pairs=40)
    assert new_state(cluster, ARMS["dualpath"], 1).rules[0].quota_ns == pytest.approx(40)
    assert new_state(cluster, ARMS["layerwise"], 1).rules[0].quota_ns == inf


def test_nothing_ready_makes_no_batch() -> None:
    assert selected([], 100.0) == []
