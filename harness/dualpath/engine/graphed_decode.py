"""Decode steps on a GPU: a CUDA graph for each size of batch, over the paged KV cache.

A step of a 7B model is some 500 kernels. Launched one by one they take the processor longer than they take the GPU at
small batches; a graph is one launch. Batches are padded to the next size that has a graph; the rows that pad are tokens
at position 0 of a page that no sequence has.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from dualpath.engine.models.model import Model

_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64)  # captured at start; larger ones are multiples of the last, when needed


@dataclass(slots=True)
class _Inputs:
    """What a step reads, on the GPU or pinned in host memory."""

    token_ids: Tensor  # [size] int64
    positions: Tensor  # [size] int64
    pages: Tensor  # [size, most pages] int32

    @classmethod
    def empty(cls, size: int, most_pages: int, spare_page: int, **where: Any) -> _Inputs:
        pages = torch.full((size, most_pages), spare_page, dtype=torch.int32, **where)
        return cls(torch.zeros(size, dtype=torch.int64, **where), torch.zeros(size, dtype=torch.int64, **where), pages)


class GraphedDecode:
    """For models whose tokens attend to their whole context."""

    def __init__(self, model: Model, memory: Tensor) -> None:
        """memory: [layers, blocks + 1, block tokens, E]; the last block is nobody's."""
        self._model = model
        self._memory = memory
        self._spare_page = memory.shape[1] - 1
        self._attend_pages = import_module("dualpath.engine.decode_kernel").attend_pages
        self._graphs: dict[int, tuple[Any, _Inputs, _Inputs, Tensor]] = {}  # by size: graph, inputs, pinned, choices
        self._members: list[list[int]] = []  # pages of the batch that the inputs were last filled for
        self._pool: Any = None  # of memory, shared by all graphs: one runs at a time
        for size in reversed(_SIZES):  # the largest first, whose memory the others then use
            self._graphs[size] = self._captured(size)

    def step(self, token_ids: list[int], positions: list[int], pages: list[list[int]]) -> list[int]:
        """Feed one token of each sequence at its position; returns the model's choices for the next. pages: each
        sequence's, in order; the same lists as long as it decodes."""
        num = len(token_ids)
        size = next((size for size in _SIZES if size >= num), -(-num // _SIZES[-1]) * _SIZES[-1])
        if size not in self._graphs:
            self._graphs[size] = self._captured(size)
        graph, inputs, pinned, choices = self._graphs[size]
        pinned.token_ids[:num] = torch.tensor(token_ids)
        pinned.positions[:num] = torch.tensor(positions)
        pinned.positions[num:] = 0
        inputs.token_ids.copy_(pinned.token_ids, non_blocking=True)
        inputs.positions.copy_(pinned.positions, non_blocking=True)
        if pages != self._members:
            self._fill(pinned, inputs, pages)
            self._members = pages
        graph.replay()
        return self._model.as_list(choices[:num])

    def _fill(self, pinned: _Inputs, inputs: _Inputs, pages: list[list[int]]) -> None:
        width = max(map(len, pages))
        table = pinned.pages.numpy()
        table[:, :width] = self._spare_page
        for row, each in enumerate(pages):
            table[row, : len(each)] = each
        inputs.pages[:, :width].copy_(pinned.pages[:, :width], non_blocking=True)

    def forward(self, token_ids: Tensor, positions: Tensor, pages: Tensor) -> Tensor:
        """[b], [b], [b, p] -> [b] int64; new entries are written to their pages."""
        model, block_tokens = self._model, self._memory.shape[2]
        hidden = model.embed(token_ids)
        rotation = model.rotation(positions)
        page = pages.gather(1, (positions // block_tokens)[:, None])[:, 0]
        slots = page * block_tokens + positions % block_tokens
        for layer in range(model.shape.layers):
            queries, entries = model.project(layer, hidden, rotation)
            memory = self._memory[layer]
            memory.view(-1, memory.shape[2]).index_copy_(0, slots, entries)
            mixed = self._attend_pages(model.shape, queries.heads.contiguous(), memory, pages, positions, model.scale)
            hidden = hidden + model.output(layer, mixed)
            hidden = hidden + model.feed_forward(layer, hidden)
        return model.next_tokens(hidden)

    def _captured(self, size: int) -> tuple[Any, _Inputs, _Inputs, Tensor]:
        most_pages = self._memory.shape[1]
        inputs = _Inputs.empty(size, most_pages, self._spare_page, device=self._memory.device)
        pinned = _Inputs.empty(size, most_pages, self._spare_page, pin_memory=True)
        self._members = []
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), torch.inference_mode():
            for _ in range(2):  # kernels are compiled and libraries initialised outside the capture
                self.forward(inputs.token_ids, inputs.positions, inputs.pages)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"), torch.inference_mode():
            choices = self.forward(inputs.token_ids, inputs.positions, inputs.pages)
        self._pool = graph.pool()
        return graph, inputs, pinned, choices
