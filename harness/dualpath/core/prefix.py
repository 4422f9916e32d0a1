"""Which prompt prefixes are in storage: the trie of Full Blocks, one node per block (paper 2.3).

A block's key is chained: it depends on every token before it. So a key names a whole prefix, and the trie
is the set of its keys.
"""

from __future__ import annotations

from collections.abc import Sequence


class PrefixIndex:
    """Keys of the persisted blocks. A block counts as a hit only where all blocks before it are hits, too."""

    __slots__ = ("_keys",)

    def __init__(self) -> None:
        self._keys: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, keys: Sequence[bytes]) -> None:
        self._keys.update(keys)

    def match(self, keys: Sequence[bytes]) -> int:
        """Number of leading keys that are persisted."""
        for position, key in enumerate(keys):
            if key not in self._keys:
                return position
        return len(keys)
