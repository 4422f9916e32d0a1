"""Which leading blocks of a prompt an earlier prompt had: the longest prefix in a trie of block hashes."""

from __future__ import annotations


class PrefixTrie:
    """Every prompt seen so far, as paths of block hashes. Memory grows with distinct prefixes."""

    def __init__(self) -> None:
        self._children: dict[tuple[int, int], int] = {}  # (node, block hash) -> node; the root is 0
        self._last: tuple[int, ...] = ()
        self._path: list[int] = []  # nodes of `_last`

    def insert(self, hashes: tuple[int, ...]) -> int:
        """Add a prompt; returns how many of its leading blocks were there before."""
        # A prompt mostly continues the one before it: that much of the path is known.
        known = common_prefix(self._last, hashes)
        del self._path[known:]
        node = self._path[-1] if self._path else 0
        hits = known
        for block in hashes[known:]:
            below = self._children.get((node, block))
            if below is None:
                below = len(self._children) + 1
                self._children[node, block] = below
            else:
                hits += 1
            node = below
            self._path.append(node)
        self._last = hashes
        return hits


def common_prefix(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Leading equal items. Bisects on slices: comparing tuples runs in C."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
