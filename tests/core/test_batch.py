"""Batch selection against brute force."""

from __future__ import annotations

import pytest
from dualpath.core.batch import BatchLimits, Candidate, attention_ns, select_batch
from hypothesis import given, settings
from hypothesis import strategies as st

BLOCK = 4
MANY = 10**6


def limits(quota_ns: float | None, hbm_blocks: int = MANY) -> BatchLimits:
    return BatchLimits(quota_ns, attention_ns_per_pair=1.0, hbm_blocks=hbm_blocks, block_tokens=BLOCK)


CANDIDATES = st.lists(
    st.builds(Candidate, st.integers(0, 99), st.integers(0, 30), st.integers(1, 30)), min_size=1, max_size=8
)


def test_attention_counts_each_pair_once() -> None:
    """New token i attends to the cached ones and to new ones up to itself."""
    for cached in range(5):
        for new in range(1, 9):
            assert attention_ns(cached, new, 1.0) == sum(cached + i + 1 for i in range(new))


@settings(max_examples=400, deadline=None, derandomize=True)
@given(CANDIDATES, st.one_of(st.integers(0, 2000), st.floats(0, 2000)), st.sampled_from([15, 20, 40, MANY]))
def test_batch_is_the_papers_loop_with_a_linear_search(
    ready: list[Candidate], quota_ns: float, hbm_blocks: int
) -> None:
    expected: list[tuple[Candidate, int]] = []
    spent_ns, blocks = 0.0, 0
    for candidate in ready:
        blocks += -(-(candidate.cached_tokens + candidate.new_tokens) // BLOCK)
        if blocks > hbm_blocks:
            break
        fitting = [
            new
            for new in range(candidate.new_tokens + 1)
            if attention_ns(candidate.cached_tokens, new, 1.0) <= quota_ns - spent_ns
        ]
        take = max(fitting, default=0)
        if not expected:
            take = max(take, min(BLOCK, candidate.new_tokens))
        if take:
            expected.append((candidate, take))
        if take < candidate.new_tokens:
            break
        spent_ns += attention_ns(candidate.cached_tokens, take, 1.0)
    assert select_batch(ready, limits(quota_ns, hbm_blocks)) == expected


@settings(max_examples=200, deadline=None, derandomize=True)
@given(CANDIDATES, st.one_of(st.none(), st.integers(0, 3000)), st.sampled_from([15, 20, 40, MANY]))
def test_any_batch_is_a_prefix_that_fits_and_cuts_its_last_at_most(
    ready: list[Candidate], quota_ns: float | None, hbm_blocks: int
) -> None:
    batch = select_batch(ready, limits(quota_ns, hbm_blocks))
    assert batch, "the first request always makes progress"
    assert [candidate for candidate, _ in batch] == ready[: len(batch)]
    assert all(take == candidate.new_tokens for candidate, take in batch[:-1])
    assert 1 <= batch[-1][1] <= batch[-1][0].new_tokens
    if quota_ns is not None and len(batch) > 1:
        assert sum(attention_ns(candidate.cached_tokens, take, 1.0) for candidate, take in batch) <= quota_ns
    assert sum(-(-(c.cached_tokens + take) // BLOCK) for c, take in batch) <= hbm_blocks


def test_without_a_quota_only_device_memory_ends_a_batch() -> None:
    ready = [Candidate(number, 40, 40) for number in range(5)]
    assert [take for _, take in select_batch(ready, limits(None, hbm_blocks=60))] == [40, 40, 40]


def test_a_request_that_fits_the_quota_exactly_is_whole() -> None:
    assert select_batch([Candidate(0, 10, 4)], limits(50.0)) == [(Candidate(0, 10, 4), 4)]
    assert select_batch([Candidate(0, 10, 5)], limits(50.0)) == [(Candidate(0, 10, 5), 4)]


@pytest.mark.parametrize("new_tokens", [1, 3, 4, 30])
def test_a_quota_too_small_for_anything_still_lets_one_block_through(new_tokens: int) -> None:
    ready = [Candidate(0, 1000, new_tokens), Candidate(1, 0, 1)]
    batch = select_batch(ready, limits(0.0))
    assert batch == [(ready[0], min(BLOCK, new_tokens))]


def test_nothing_ready_makes_no_batch() -> None:
    assert select_batch([], limits(100.0)) == []
