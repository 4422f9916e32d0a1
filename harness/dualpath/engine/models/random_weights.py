"""Weights drawn from a seed, where no checkpoint is given."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dualpath.core.model_shape import ModelShape
from dualpath.engine.models.weights import ExpertWeights, IndexerWeights, LayerWeights, Weights


def random_weights(shape: ModelShape, seed: int, device: str, dtype: torch.dtype) -> Weights:
    """Drawn on `device`, tensor by tensor, each cast before the next one is drawn. One seed gives the same weights in
    all processes on one kind of device; on another kind it gives others."""
    draw = _Draw(seed, device, dtype)
    embedding = draw.matrix(shape.vocab, shape.hidden).mul_(math.sqrt(shape.vocab))  # unit variance
    layers = [_layer(draw, shape, layer) for layer in range(shape.layers)]
    return Weights(embedding, layers, draw.ones(shape.hidden), draw.matrix(shape.hidden, shape.vocab))


class _Draw:
    """Tensors in the order in which they are asked for: another order gives other weights."""

    def __init__(self, seed: int, device: str, dtype: torch.dtype) -> None:
        self._generator = torch.Generator(device).manual_seed(seed)
        self._device = device
        self._dtype = dtype

    def matrix(self, *sizes: int) -> Tensor:
        """Such that a product with it keeps its input's variance."""
        fan_in = sizes[-2] if len(sizes) > 1 else sizes[0]
        drawn = torch.randn(sizes, generator=self._generator, device=self._device)
        return drawn.div_(math.sqrt(fan_in)).to(self._dtype)

    def ones(self, size: int) -> Tensor:
        return torch.ones(size, device=self._device, dtype=self._dtype)


def _layer(draw: _Draw, shape: ModelShape, layer: int) -> LayerWeights:
    mla, rank = shape.attention == "mla", shape.query_rank
    queries = shape.heads * shape.query_dim
    width = (rank or queries) + shape.kv_elements - shape.index_dim
    dense = shape.is_dense(layer)
    mlp = shape.mlp if dense else shape.shared_experts * shape.expert_mlp
    return LayerWeights(
        attention_norm=draw.ones(shape.hidden),
        project=draw.matrix(shape.hidden, width),
        project_bias=draw.matrix(width) if shape.qkv_bias else None,
        query_norm=draw.ones(rank) if rank else None,
        query_up=draw.matrix(rank, queries) if rank else None,
        latent_norm=draw.ones(shape.latent_dim) if mla else None,
        key_up=draw.matrix(shape.heads, shape.head_dim, shape.latent_dim) if mla else None,
        value_up=draw.matrix(shape.heads, shape.latent_dim, shape.value_dim) if mla else None,
        indexer=_indexer(draw, shape) if shape.index_heads else None,
        output=draw.matrix(shape.heads * shape.value_dim, shape.hidden),
        mlp_norm=draw.ones(shape.hidden),
        gate_up=draw.matrix(shape.hidden, 2 * mlp),
        down=draw.matrix(mlp, shape.hidden),
        experts=None if dense else _experts(draw, shape),
    )


def _indexer(draw: _Draw, shape: ModelShape) -> IndexerWeights:
    return IndexerWeights(
        queries=draw.matrix(shape.query_rank or shape.hidden, shape.index_heads * shape.index_dim),
        key=draw.matrix(shape.hidden, shape.index_dim),
        key_norm=draw.ones(shape.index_dim).float(),
        key_norm_bias=draw.matrix(shape.index_dim).float(),
        head_weights=draw.matrix(shape.hidden, shape.index_heads).float(),
    )


def _experts(draw: _Draw, shape: ModelShape) -> ExpertWeights:
    return ExpertWeights(
        router=draw.matrix(shape.hidden, shape.experts).float(),
        correction=draw.matrix(shape.experts).float(),
        gate_up=draw.matrix(shape.experts, shape.hidden, 2 * shape.expert_mlp),
        down=draw.matrix(shape.experts, shape.expert_mlp, shape.hidden),
    )
