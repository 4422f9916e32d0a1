"""Forward passes on a GPU: attention of all chunks in one kernel, and for small batches a CUDA graph for each layer.

A layer of a 7B model is some 20 kernels. Launched one by one they take the processor longer than they take the GPU,
where a few hundred new tokens stand behind long cached contexts, as in agents' turns; and while one thread launches,
those that move KV wait for the interpreter. Batches are padded to the next size that has graphs; rows that pad belong
to no chunk, and their KV goes to a row of device memory that nobody reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dualpath.engine.forward_pass import Chunk
from dualpath.engine.models.model import Model
from dualpath.engine.models.rotation import Rotation

_SIZES = (64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)  # new tokens; larger batches keep the GPU busy anyway
_CHUNKS = 32  # of a batch with graphs


@dataclass(slots=True)
class _Inputs:
    """What all layers of a pass read, on the GPU. n: new tokens; c: chunks."""

    hidden: Tensor  # [n, hidden], which they change
    rotation: Rotation  # of the new tokens
    slots: Tensor  # [n] int64: rows of device memory for new tokens' KV
    ends: Tensor  # [c + 1] int32: where chunks begin and end among the new tokens
    rows: Tensor  # [c + 1] int32: where their KV begins in device memory
    contexts: Tensor  # [c] int32: tokens of each, cached and new
    most_new: int  # of a chunk, at most
    most_context: int

    def first(self, num: int) -> _Inputs:
        """Those of the first new tokens."""
        rotation = Rotation(self.rotation.cos[:num], self.rotation.sin[:num])
        return replace(self, hidden=self.hidden[:num], rotation=rotation, slots=self.slots[:num], most_new=num)

    def take(self, other: _Inputs) -> None:
        """Its values."""
        for mine, its in zip(self._tensors(), other._tensors(), strict=True):
            mine.copy_(its)

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.hidden, *self.rotation, self.slots, self.ends, self.rows, self.contexts


class GraphedPasses:
    """A way of computing (forward_pass.Forward), for models with grouped-query attention in 16-bit numbers."""

    @torch.inference_mode()
    def __init__(self, model: Model, memory: Tensor) -> None:
        """memory: [layers held, rows + 1, E]; the last row is nobody's. Layer i lies in slot i % layers held."""
        self._model = model
        self._memory = memory
        self._graphs: dict[int, tuple[_Inputs, list[Any]]] = {}  # by size: what they read, one for each layer
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            most = self._inputs([], _SIZES[-1], _CHUNKS)
            for _ in range(2):  # kernels are compiled and libraries initialised outside the captures
                self._compute(0, most)
            pool = torch.cuda.graph_pool_handle()
            for size in reversed(_SIZES):  # the largest first, whose memory the others then use
                inputs = most.first(size)
                graphs = [self._captured(layer, inputs, pool) for layer in range(model.shape.layers)]
                self._graphs[size] = inputs, graphs
        torch.cuda.current_stream().wait_stream(stream)

    def _captured(self, layer: int, inputs: _Inputs, pool: Any) -> Any:
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        self._compute(layer, inputs)
        graph.capture_end()
        return graph

    def __call__(self, chunks: Sequence[Chunk]) -> _Pass:
        num = sum(chunk.new for chunk in chunks)
        size = next((size for size in _SIZES if size >= num), None)
        if size is None or len(chunks) > _CHUNKS:
            inputs = self._inputs(chunks, num, len(chunks))
            return _Pass(self._model, inputs, len(chunks), lambda layer: self._compute(layer, inputs))
        inputs, graphs = self._graphs[size]
        inputs.take(self._inputs(chunks, size, _CHUNKS))
        return _Pass(self._model, inputs, len(chunks), lambda layer: graphs[layer].replay())

    def _inputs(self, chunks: Sequence[Chunk], size: int, most_chunks: int) -> _Inputs:
        """Padded to `size` new tokens and `most_chunks` chunks."""
        tokens = np.zeros((3, size), dtype=np.int64)  # ids, positions, slots
        tokens[2] = self._memory.shape[1] - 1
        table = np.zeros((3, most_chunks + 1), dtype=np.int32)  # ends, rows, contexts
        first = 0
        for at, chunk in enumerate(chunks):
            end, context = first + chunk.new, chunk.cached + chunk.new
            positions = np.arange(chunk.cached, context)
            tokens[:, first:end] = chunk.token_ids, positions, chunk.row + positions
            table[:, at] = first, chunk.row, context
            first = end
        table[0, len(chunks) :] = first
        ids, positions_, slots = _on_gpu(tokens)
        ends, rows, contexts = _on_gpu(table)
        return _Inputs(
            hidden=self._model.embed(ids),
            rotation=self._model.rotation(positions_),
            slots=slots,
            ends=ends,
            rows=rows,
            contexts=contexts[:-1],
            most_new=max((chunk.new for chunk in chunks), default=size),
            most_context=self._memory.shape[1],
        )

    def _compute(self, layer: int, inputs: _Inputs) -> None:
        """One layer, on what is in `hidden`."""
        model, shape = self._model, self._model.shape
        memory = self._memory[layer % len(self._memory)]
        queries, entries = model.project(layer, inputs.hidden, inputs.rotation)
        memory.index_copy_(0, inputs.slots, entries)
        keys, values = (part.view(-1, shape.kv_heads, shape.head_dim) for part in memory.chunk(2, dim=1))
        mixed = torch.ops.aten._flash_attention_forward(
            queries.heads,
            keys,
            values,
            inputs.ends,
            inputs.rows,
            inputs.most_new,
            inputs.most_context,
            0.0,  # dropout
            True,  # causal, from the end of each context
            False,
            scale=model.scale,
            seqused_k=inputs.contexts,
        )[0]
        inputs.hidden.add_(model.output(layer, mixed))
        inputs.hidden.add_(model.feed_forward(layer, inputs.hidden))


class _Pass:
    """A ForwardPass."""

    def __init__(self, model: Model, inputs: _Inputs, num_chunks: int, layer: Callable[[int], None]) -> None:
        self._model = model
        self._inputs = inputs
        self._num_chunks = num_chunks
        self.layer = layer

    def choices(self) -> list[int]:
        last = self._inputs.ends[1 : self._num_chunks + 1] - 1
        return self._model.as_list(self._model.next_tokens(self._inputs.hidden[last]))


def _on_gpu(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(values).pin_memory().to("cuda", non_blocking=True)
