"""Grouped-query attention (arXiv 2305.13245): query heads share KV heads.

A cache entry is [keys of all KV heads, values of all KV heads].
"""

from __future__ import annotations

import torch
from torch import Tensor

from dualpath.core.model_shape import ModelShape
from dualpath.engine.models.queries import Queries
from dualpath.engine.models.rotation import Rotation
from dualpath.engine.models.weights import LayerWeights


def project(shape: ModelShape, weights: LayerWeights, x: Tensor, rotation: Rotation) -> tuple[Queries, Tensor]:
    """Queries and cache entries [n, E] of normed hidden states [n, hidden]."""
    projected = x @ weights.project
    if weights.project_bias is not None:
        projected = projected + weights.project_bias
    rotated_heads = shape.heads + shape.kv_heads
    width = rotated_heads * shape.head_dim
    rotated = rotation.apply(projected[:, :width].view(len(x), rotated_heads, shape.head_dim))
    keys = rotated[:, shape.heads :].flatten(1)
    return Queries(rotated[:, : shape.heads]), torch.cat([keys, projected[:, width:]], dim=1)


def keys_values(shape: ModelShape, context: Tensor) -> tuple[Tensor, Tensor]:
    """Views of cache entries [c, E] as keys and values [G, c, D] each."""
    keys, values = context.chunk(2, dim=1)
    size = (len(context), shape.kv_heads, shape.head_dim)
    return keys.view(size).transpose(0, 1), values.view(size).transpose(0, 1)
