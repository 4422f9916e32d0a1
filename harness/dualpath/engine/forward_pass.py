"""A forward pass of a prefill engine over a batch: what its three ways of computing have in common.

plain_pass.py is the plain one, graphed_pass.py the fast one on a GPU, exact_pass.py the one whose bits do not depend on
the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Chunk(NamedTuple):
    """New tokens of a request behind cached ones. Their KV lies in rows [row, row + cached + new) of device memory."""

    row: int
    cached: int
    token_ids: NDArray[np.int64]  # [new]

    @property
    def new(self) -> int:
        return len(self.token_ids)


class ForwardPass(Protocol):
    """Layers are computed in order, each when the KV of its cached tokens is there; new tokens' KV is left beside it.
    May return before the device is done (Model.recorded)."""

    def layer(self, layer: int) -> None: ...

    def choices(self) -> list[int]:
        """Greedy, for the token after each chunk; waits for the device."""


class Forward(Protocol):
    """A way of computing."""

    def __call__(self, chunks: Sequence[Chunk]) -> ForwardPass: ...
