"""A forward pass chunk by chunk, on any device, for any model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dualpath.engine.forward_pass import Chunk
from dualpath.engine.models.model import Model


class PlainPass:
    """A ForwardPass."""

    def __init__(self, model: Model, memory: Tensor, chunks: Sequence[Chunk]) -> None:
        """memory: [layers held, rows, E]; layer i lies in slot i % layers held."""
        self._model = model
        self._memory = memory
        self._chunks = chunks
        positions = [np.arange(chunk.cached, chunk.cached + chunk.new) for chunk in chunks]
        self._rotation = model.rotation(torch.from_numpy(np.concatenate(positions)).to(model.device))
        ids = torch.from_numpy(np.concatenate([chunk.token_ids for chunk in chunks]))
        self._hidden = model.embed(ids.to(model.device))

    def layer(self, layer: int) -> None:
        model = self._model
        memory = self._memory[layer % len(self._memory)]
        queries, entries = model.project(layer, self._hidden, self._rotation)
        mixed: list[Tensor] = []
        first = 0
        for chunk in self._chunks:
            context = memory[chunk.row : chunk.row + chunk.cached + chunk.new]
            context[chunk.cached :] = entries[first : first + chunk.new]
            mixed.append(model.attend(layer, queries.rows(first, first + chunk.new), context, chunk.cached))
            first += chunk.new
        hidden = self._hidden + torch.cat(mixed)
        self._hidden = hidden + model.feed_forward(layer, hidden)

    def choices(self) -> list[int]:
        last = np.cumsum([chunk.new for chunk in self._chunks]) - 1
        return self._model.as_list(self._model.next_tokens(self._hidden[last.tolist()]))
