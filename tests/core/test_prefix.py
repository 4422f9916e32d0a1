"""The prefix index against a trie of nodes."""

from __future__ import annotations

from dualpath.core.prefix import PrefixIndex
from hypothesis import given, settings
from hypothesis import strategies as st


def test_an_empty_index_hits_nothing() -> None:
    assert PrefixIndex().match([b"a"]) == 0
    assert PrefixIndex().match([]) == 0


def test_a_hit_ends_at_the_first_missing_block() -> None:
    index = PrefixIndex()
    index.add([b"a", b"b", b"d"])
    assert index.match([b"a", b"b", b"c", b"d"]) == 2
    assert index.match([b"c", b"a"]) == 0
    assert index.match([b"a", b"b"]) == 2
    assert len(index) == 3


def chained(tokens: str) -> list[bytes]:
    """Keys as they come: each names its whole prefix."""
    return [tokens[: stop + 1].encode() for stop in range(len(tokens))]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.text("ab", max_size=6), max_size=6), st.text("ab", max_size=6))
def test_with_chained_keys_it_is_a_trie(stored: list[str], asked: str) -> None:
    index = PrefixIndex()
    root: dict[str, dict] = {}
    nodes = 0
    for tokens in stored:
        index.add(chained(tokens))
        node = root
        for token in tokens:
            nodes += token not in node
            node = node.setdefault(token, {})
    depth, node = 0, root
    while depth < len(asked) and asked[depth] in node:
        node = node[asked[depth]]
        depth += 1
    assert index.match(chained(asked)) == depth
    assert len(index) == nodes
