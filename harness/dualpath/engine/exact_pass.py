"""A forward pass whose results do not depend on what is in the batch: tile by tile (exact.py). Slow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dualpath.engine.exact import TileRows, choose_exact, layer_tile
from dualpath.engine.forward_pass import Chunk
from dualpath.engine.models.model import Model


class ExactPass:
    """A ForwardPass."""

    def __init__(self, model: Model, memory: Tensor, tile: int, chunks: Sequence[Chunk]) -> None:
        """memory: [layers held, rows, E]; layer i lies in slot i % layers held."""
        self._model = model
        self._memory = memory
        self._tile = tile
        self._chunks = chunks
        self._hidden = [list(self._embedded(chunk)) for chunk in chunks]  # of each tile: [tile, hidden]

    def _embedded(self, chunk: Chunk) -> Iterator[Tensor]:
        ids = torch.from_numpy(chunk.token_ids).to(self._model.device)
        for rows in self._tiles(chunk):
            first = rows.start + rows.first - chunk.cached
            yield rows.spread(self._model.embed(ids[first : first + rows.num]))

    def _tiles(self, chunk: Chunk) -> Iterator[TileRows]:
        """The aligned tiles that new tokens fall into."""
        position, end = chunk.cached, chunk.cached + chunk.new
        while position < end:
            num = min(self._tile - position % self._tile, end - position)
            yield TileRows(position, num, self._tile)
            position += num

    def layer(self, layer: int) -> None:
        memory = self._memory[layer % len(self._memory)]
        for chunk, hidden in zip(self._chunks, self._hidden, strict=True):
            for at, rows in enumerate(self._tiles(chunk)):

                def exchange(layer: int, entries: Tensor, row: int = chunk.row, rows: TileRows = rows) -> Tensor:
                    context = memory[row : row + rows.start + rows.tile]
                    context[rows.start + rows.first :][: rows.num] = entries
                    return context

                hidden[at] = layer_tile(self._model, layer, hidden[at], rows, exchange)

    def choices(self) -> list[int]:
        found = []
        for chunk, hidden in zip(self._chunks, self._hidden, strict=True):
            (*_, rows) = self._tiles(chunk)
            state = rows.take(hidden[-1])[-1]
            found.append(int(choose_exact(self._model, state, chunk.cached + chunk.new - 1, self._tile)))
        return found
