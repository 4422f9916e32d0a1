"""What new tokens ask of their context."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Queries(NamedTuple):
    """Of n new tokens, rotated."""

    heads: Tensor  # [n, H, D]
    index_heads: Tensor | None = None  # [n, index heads, index dim]: the indexer's, where there is one
    index_weights: Tensor | None = None  # [n, index heads] float32: how much each counts, scaled

    def rows(self, first: int, end: int) -> Queries:
        """Of tokens [first, end)."""
        if self.index_heads is None or self.index_weights is None:
            return Queries(self.heads[first:end])
        return Queries(self.heads[first:end], self.index_heads[first:end], self.index_weights[first:end])
