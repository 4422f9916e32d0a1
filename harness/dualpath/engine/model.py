"""A causal transformer in torch whose KV cache lives outside it: grouped-query or multi-head latent attention.

The caller owns the cache. `project` yields the cache entry of each new token, `attend` reads entries of a whole
context; so prefill and decode, layer by layer or not, on any device, are the same few functions.

Shapes: n new tokens, c tokens of context, H heads, G KV heads, E elements of an entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right

from dualpath.core.model_shape import ModelShape


@dataclass(frozen=True, slots=True)
class LayerWeights:
    attention_norm: Tensor  # [hidden]
    project: Tensor  # [hidden, H * query dim + E]: queries, then cache entries
    project_bias: Tensor | None  # [H * query dim + E]
    key_up: Tensor | None  # mla: [H, head_dim, latent_dim], takes a query into latent space
    value_up: Tensor | None  # mla: [H, latent_dim, head_dim]
    output: Tensor  # [H * head_dim, hidden]
    mlp_norm: Tensor  # [hidden]
    gate_up: Tensor  # [hidden, 2 * mlp]
    down: Tensor  # [mlp, hidden]


@dataclass(frozen=True, slots=True)
class Weights:
    """Of one data type, on one device."""

    embedding: Tensor  # [vocab, hidden]
    layers: list[LayerWeights]
    final_norm: Tensor  # [hidden]
    head: Tensor  # [hidden, vocab]


class Rotation(NamedTuple):
    """Rotary embedding of some positions, halves layout."""

    cos: Tensor  # [n, 1, dim], each half the same
    sin: Tensor  # [n, 1, dim], the first half negated

    def apply(self, x: Tensor) -> Tensor:
        """x: [n, heads, dim]"""
        return torch.addcmul(x * self.cos, x.roll(x.shape[-1] // 2, -1), self.sin)


def random_weights(shape: ModelShape, seed: int, device: str, dtype: torch.dtype) -> Weights:
    """Drawn on the CPU, so that all processes with one seed have the same."""
    generator = torch.Generator().manual_seed(seed)

    def weight(*sizes: int) -> Tensor:
        fan_in = sizes[-2] if len(sizes) > 1 else sizes[0]
        values = torch.randn(sizes, generator=generator) / math.sqrt(fan_in)
        return values.to(device=device, dtype=dtype)

    def ones() -> Tensor:
        return torch.ones(shape.hidden, device=device, dtype=dtype)

    mla = shape.attention == "mla"
    width = shape.heads * shape.query_dim + shape.kv_elements
    embedding = weight(shape.vocab, shape.hidden) * math.sqrt(shape.vocab)  # unit variance
    layers = [
        LayerWeights(
            attention_norm=ones(),
            project=weight(shape.hidden, width),
            project_bias=weight(width) if shape.qkv_bias else None,
            key_up=weight(shape.heads, shape.head_dim, shape.latent_dim) if mla else None,
            value_up=weight(shape.heads, shape.latent_dim, shape.head_dim) if mla else None,
            output=weight(shape.heads * shape.head_dim, shape.hidden),
            mlp_norm=ones(),
            gate_up=weight(shape.hidden, 2 * shape.mlp),
            down=weight(shape.mlp, shape.hidden),
        )
        for _ in range(shape.layers)
    ]
    return Weights(embedding, layers, ones(), weight(shape.hidden, shape.vocab))


class Model:
    """A shape with weights: where none are given, random ones from a seed."""

    def __init__(
        self,
        shape: ModelShape,
        seed: int = 0,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        weights: Weights | None = None,
    ) -> None:
        self.shape = shape
        self.device = device
        self.dtype = dtype
        self.weights = weights or random_weights(shape, seed, device, dtype)
        self.layers = self.weights.layers
        rope_dim = shape.rope_dim if shape.attention == "mla" else shape.head_dim
        exponents = torch.arange(0, rope_dim, 2, dtype=torch.float64) / rope_dim
        self._inverse_frequency = (shape.rope_base**-exponents).to(device)
        self.scale = 1 / math.sqrt(shape.query_dim)

    def recorded(self) -> Callable[[], None]:
        """Remember what the device was asked so far; calling what is returned waits until it has done that. Who reads
        its memory past this thread's stream, as another stream or a NIC does, must wait."""
        if self.device == "cpu":
            return lambda: None
        event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        wait: Callable[[], None] = event.synchronize
        return wait

    def embed(self, token_ids: Tensor) -> Tensor:
        """[n] -> [n, hidden]"""
        return self.weights.embedding[token_ids]

    def rotation(self, positions: Tensor) -> Rotation:
        """Rotary cosines and signed sines of positions [n] int64, for `project` of every layer.

        Angles in float64, so that a position's rotation is the same whatever batch it is computed in.
        """
        angles = positions.to(torch.float64)[:, None, None] * self._inverse_frequency
        cos, sin = angles.cos().to(self.dtype), angles.sin().to(self.dtype)
        return Rotation(torch.cat([cos, cos], dim=2), torch.cat([-sin, sin], dim=2))

    def project(self, layer: int, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """New tokens' queries [n, H, D] and cache entries [n, E]. x: [n, hidden]."""
        shape, weights = self.shape, self.layers[layer]
        projected = self._norm(x, weights.attention_norm) @ weights.project
        if weights.project_bias is not None:
            projected = projected + weights.project_bias
        if shape.attention == "gqa":
            rotated_heads = shape.heads + shape.kv_heads
            width = rotated_heads * shape.head_dim
            rotated = rotation.apply(projected[:, :width].view(len(x), rotated_heads, shape.head_dim))
            keys = rotated[:, shape.heads :].flatten(1)
            return rotated[:, : shape.heads], torch.cat([keys, projected[:, width:]], dim=1)
        assert weights.key_up is not None
        split = shape.heads * (shape.head_dim + shape.rope_dim)
        queries, entries = projected[:, :split].view(len(x), shape.heads, -1), projected[:, split:]
        absorbed = torch.einsum("nhd,hdl->nhl", queries[..., : shape.head_dim], weights.key_up)
        queries = torch.cat([absorbed, rotation.apply(queries[..., shape.head_dim :])], dim=2)
        latent, key = entries[:, : shape.latent_dim], entries[:, shape.latent_dim :]
        key = rotation.apply(key[:, None])[:, 0]
        return queries, torch.cat([functional.rms_norm(latent, (shape.latent_dim,)), key], dim=1)

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Views of cache entries [c, E] as keys [G, c, D] and values [G, c, Dv]."""
        shape = self.shape
        if shape.attention == "gqa":
            keys, values = context.chunk(2, dim=1)
            size = (len(context), shape.kv_heads, shape.head_dim)
            return keys.view(size).transpose(0, 1), values.view(size).transpose(0, 1)
        return context[None], context[None, :, : shape.latent_dim]

    def attend(self, layer: int, queries: Tensor, context: Tensor, first_position: int) -> Tensor:
        """Attention of n consecutive new tokens over their context, themselves included.

        queries: [n, H, D]; context: cache entries [first_position + n, E]; returns [n, hidden].
        """
        keys, values = self.keys_values(context)
        if queries.is_cuda and self.shape.attention == "gqa":
            mixed = _attend_fused(queries, keys, values, self.scale)
            return self.output(layer, mixed)
        grouped = self._grouped(queries, len(keys))  # [G, H/G * n, D]
        mask = None
        if len(queries) > 1:
            mask = torch.ones(len(queries), len(context), dtype=torch.bool, device=queries.device).tril(first_position)
            mask = mask.repeat(grouped.shape[1] // len(queries), 1)
        mixed = functional.scaled_dot_product_attention(
            grouped[None], keys[None], values[None], attn_mask=mask, scale=self.scale
        )[0]
        return self.output(layer, self._ungrouped(mixed, len(queries)))

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
        if weights.value_up is not None:
            mixed = torch.einsum("nhl,hld->nhd", mixed, weights.value_up)
        return mixed.flatten(1) @ weights.output

    def feed_forward(self, layer: int, x: Tensor) -> Tensor:
        """[n, hidden] -> [n, hidden], without the residual."""
        weights = self.layers[layer]
        x = self._norm(x, weights.mlp_norm)
        gate, up = (x @ weights.gate_up).chunk(2, dim=1)
        return (functional.silu(gate) * up) @ weights.down

    def next_tokens(self, x: Tensor) -> Tensor:
        """Greedy choice. [n, hidden] -> [n] int64"""
        return self.logits(x).argmax(dim=1)

    def logits(self, x: Tensor) -> Tensor:
        """[n, hidden] -> [n, vocab]"""
        return self._norm(x, self.weights.final_norm) @ self.weights.head

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), weight, eps=self.shape.norm_eps)


def _attend_fused(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """One kernel, no mask in memory, KV heads not repeated. queries: [n, H, D]; keys, values: [G, c, D]."""
    num, num_context = len(queries), keys.shape[1]
    bias = causal_lower_right(num, num_context) if num > 1 else None
    mixed = functional.scaled_dot_product_attention(
        queries.transpose(0, 1)[None], keys[None], values[None], attn_mask=bias, scale=scale, enable_gqa=True
    )
    return mixed[0].transpose(0, 1)
