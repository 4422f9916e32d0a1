from __future__ import annotations

import json

import hypothesis.strategies as st
import pytest
from dualpath.core.trajectory import Trajectory, Turn
from dualpath.trace.hits import PrefixTrie, common_prefix
from dualpath.trace.reader import TraceFile
from dualpath.trace.stats import HitRate, trace_stats
from hypothesis import given

PROMPTS = st.lists(st.lists(st.integers(0, 3), max_size=12).map(tuple), max_size=12)


@given(prompts=PROMPTS)
def test_the_trie_finds_the_longest_prefix_of_any_earlier_prompt(prompts: list[tuple[int, ...]]) -> None:
    trie = PrefixTrie()
    for index, prompt in enumerate(prompts):
        expected = max((_common(prompt, earlier) for earlier in prompts[:index]), default=0)
        assert trie.insert(prompt) == expected


@given(a=st.lists(st.integers(0, 1)).map(tuple), b=st.lists(st.integers(0, 1)).map(tuple))
def test_common_prefix(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    assert common_prefix(a, b) == _common(a, b)


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    count = 0
    while count < min(len(a), len(b)) and a[count] == b[count]:
        count += 1
    return count


def test_table_2_columns_are_means_of_trajectory_means(write) -> None:
    path = write([Trajectory("a", (Turn(100, 10), Turn(20, 30, gap_ns=2 * 10**9))), Trajectory("b", (Turn(300, 50),))])
    with TraceFile.open(path) as trace:
        stats = trace_stats(trace)
    assert stats.table2 == (1.5, (60 + 300) / 2, (20 + 50) / 2, (160 + 350) / 2, (115 + 300) / 2)
    assert stats.spreads["append_tokens"].mean == pytest.approx(140)
    assert stats.spreads["append_tokens"].max == 300
    assert stats.spreads["gap_s"].p50 == pytest.approx(2)
    assert stats.hits_planned == HitRate(64, 100 + 130 + 300)
    assert stats.hits_within is None
    assert [row.quantity for row in stats.rows()] == list(stats.spreads)
    values = json.loads(json.dumps(stats.to_dict()))
    assert values["table2"]["turns"] == 1.5
    assert values["hits_planned"]["rate"] == pytest.approx(64 / 530)


@pytest.mark.parametrize(("scope", "hit_tokens"), [("local", 20), ("global", 40)])
def test_hits_across_respect_the_scope(write, scope: str, hit_tokens: int) -> None:
    def one(name: str, *hashes: tuple[int, ...], parent: str | None = None) -> Trajectory:
        turns = tuple(Turn(30, 2, keep_tokens=0, block_hashes=ids) for ids in hashes)
        return Trajectory(name, turns, parent, None if parent is None else 0, 10, scope)

    path = write(
        [one("a", (1, 2), (1, 3)), one("a/sub", (1, 4), parent="a"), one("b", (1, 2, 3), (9,))],
        hash_block_tokens=10,
        hash_scope=scope,
    )
    with TraceFile.open(path) as trace:
        stats = trace_stats(trace)
    assert stats.num_sub_agents == 1
    assert stats.hits_within == HitRate(10, 150)
    # a's second turn and its sub-agent find block 1; b finds 1, 2 where ids are global.
    assert stats.hits_across == HitRate(hit_tokens, 150)
