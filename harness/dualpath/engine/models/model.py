"""A causal transformer in torch whose KV cache lives outside it.

The caller owns the cache. `project` yields the cache entry of each new token, `attend` reads entries of a whole
context; so prefill and decode, layer by layer or not, on any device, are the same few functions.

Shapes: n new tokens, c tokens of context, H heads, G KV heads, E elements of an entry.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dualpath.core.errors import ModelError
from dualpath.core.model_shape import ModelShape
from dualpath.engine.models import feed_forward, grouped_query, indexer, latent, router
from dualpath.engine.models.queries import Queries
from dualpath.engine.models.random_weights import random_weights
from dualpath.engine.models.rotation import RotaryEmbedding, Rotation
from dualpath.engine.models.weights import Weights

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Recorded(NamedTuple):
    """Work of a device up to some point."""

    event: Any  # None: it is done

    def is_set(self) -> bool:
        return self.event is None or bool(self.event.query())

    def wait(self) -> None:
        if self.event is not None:
            self.event.synchronize()


class Model:
    """A shape with weights: where none are given, random ones from a seed. Weights and KV have one data type, the
    shape's `kv_dtype`."""

    def __init__(self, shape: ModelShape, seed: int = 0, device: str = "cpu", weights: Weights | None = None) -> None:
        if shape.kv_dtype not in _DTYPES:
            raise ModelError(f"{shape.name}: kv_dtype = {shape.kv_dtype!r} is simulated only; use bf16, fp16 or fp32")
        self.shape = shape
        self.device = device
        self.dtype = _DTYPES[shape.kv_dtype]
        self.weights = weights or random_weights(shape, seed, device, self.dtype)
        self.layers = self.weights.layers
        self._rotary = RotaryEmbedding(shape, device, self.dtype)
        self.scale = self._rotary.score_factor / math.sqrt(shape.query_dim)

    def recorded(self) -> Recorded:
        """What this thread has asked the device for so far. Who reads the device's memory past this thread's stream,
        as another stream or a NIC does, must wait for it."""
        if self.device == "cpu":
            return Recorded(None)
        event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return Recorded(event)

    def as_list(self, tokens: Tensor) -> list[int]:
        """[n] -> their values, when the device has them. Through pinned memory: a copy to any other holds the driver
        until all before it is done, and no other thread of the process can ask the device for anything."""
        if tokens.is_cuda:
            pinned = torch.empty_like(tokens, device="cpu", pin_memory=True)
            tokens = pinned.copy_(tokens, non_blocking=True)
            self.recorded().wait()
        found: list[int] = tokens.tolist()
        return found

    def embed(self, token_ids: Tensor) -> Tensor:
        """[n] -> [n, hidden]"""
        return self.weights.embedding[token_ids]

    def rotation(self, positions: Tensor) -> Rotation:
        """Of positions [n] int64, for `project` of every layer."""
        return self._rotary.rotation(positions)

    def project(self, layer: int, x: Tensor, rotation: Rotation) -> tuple[Queries, Tensor]:
        """New tokens' queries and cache entries [n, E]. x: [n, hidden]."""
        weights = self.layers[layer]
        project = grouped_query.project if self.shape.attention == "gqa" else latent.project
        return project(self.shape, weights, self._norm(x, weights.attention_norm), rotation)

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Views of cache entries [c, E] as keys [G, c, D] and values [G, c, Dv]."""
        keys_values = grouped_query.keys_values if self.shape.attention == "gqa" else latent.keys_values
        return keys_values(self.shape, context)

    def index_keys(self, context: Tensor) -> Tensor:
        """View of cache entries [c, E] as the indexer's keys [c, index dim]."""
        return latent.index_keys(self.shape, context)

    def attend(self, layer: int, queries: Queries, context: Tensor, first_position: int) -> Tensor:
        """Attention of n consecutive new tokens over their context, themselves included, or over what their indexer
        selects of it.

        context: cache entries [first_position + n, E]; returns [n, hidden].
        """
        num = len(queries.heads)
        mask = self._visible(queries, context, first_position)
        if num == 1 and mask is not None:  # a single token reads no more than it selects
            context, mask = context[indexer.positions(mask, self.shape.index_top_k)[0]], None
        keys, values = self.keys_values(context)
        grouped = self._grouped(queries.heads, len(keys))  # [G, H/G * n, D]
        if mask is not None:
            mask = mask.repeat(grouped.shape[1] // num, 1)
        mixed = functional.scaled_dot_product_attention(
            grouped[None], keys[None], values[None], attn_mask=mask, scale=self.scale
        )[0]
        return self.output(layer, self._ungrouped(mixed, num))

    def _visible(self, queries: Queries, context: Tensor, first_position: int) -> Tensor | None:
        """Which tokens of the context each new one attends to: [n, c] bool, or None for all."""
        num, top_k = len(queries.heads), self.shape.index_top_k
        sparse = 0 < top_k < len(context)
        if num == 1 and not sparse:
            return None
        visible = torch.ones(num, len(context), dtype=torch.bool, device=context.device).tril(first_position)
        if not sparse:
            return visible
        return indexer.selected(indexer.scores(queries, self.index_keys(context)), visible, top_k)

    def _grouped(self, queries: Tensor, groups: int) -> Tensor:
        """[n, H, D] -> [G, H/G * n, D]: the query heads that share a KV head, one below the other."""
        num, heads, dim = queries.shape
        return queries.view(num, groups, heads // groups, dim).permute(1, 2, 0, 3).reshape(groups, -1, dim)

    def _ungrouped(self, mixed: Tensor, num: int) -> Tensor:
        """[G, H/G * n, Dv] -> [n, H, Dv]"""
        groups, rows, dim = mixed.shape
        return mixed.view(groups, rows // num, num, dim).permute(2, 0, 1, 3).reshape(num, -1, dim)

    def output(self, layer: int, mixed: Tensor) -> Tensor:
        """Mixed values [n, H, Dv] -> [n, hidden]."""
        weights = self.layers[layer]
        if self.shape.attention == "mla":
            mixed = latent.expanded(weights, mixed)
        return mixed.flatten(1) @ weights.output

    def feed_forward(self, layer: int, x: Tensor, exact: bool = False) -> Tensor:
        """[n, hidden] -> [n, hidden], without the residual. exact: the shapes of all products depend on n alone."""
        weights = self.layers[layer]
        x = self._norm(x, weights.mlp_norm)
        computed = feed_forward.gated(x, weights.gate_up, weights.down)
        if weights.experts is None:
            return computed
        experts, shares = router.route(self.shape, weights.experts, x)
        in_turn = exact or self.device == "cpu"
        through = feed_forward.experts_in_turn if in_turn else feed_forward.experts_grouped
        return computed + through(weights.experts, x, experts, shares)

    def next_tokens(self, x: Tensor) -> Tensor:
        """Greedy choice. [n, hidden] -> [n] int64"""
        return self.logits(x).argmax(dim=1)

    def logits(self, x: Tensor) -> Tensor:
        """[n, hidden] -> [n, vocab]"""
        return self._norm(x, self.weights.final_norm) @ self.weights.head

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), weight, eps=self.shape.norm_eps)
