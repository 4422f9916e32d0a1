"""The indexer of DeepSeek Sparse Attention (DeepSeek-V3.2-Exp report): each token attends to the `top_k` tokens of its
context that score highest. A score is a sum over the indexer's heads of a weight of the asking token times how far,
above zero, query and key point the same way.

The published model rotates queries and keys by a Hadamard matrix, which changes no product, and scores in FP8; here as
in `transformers` scores are float32.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dualpath.core.model_shape import ModelShape
from dualpath.engine.models.queries import Queries
from dualpath.engine.models.rotation import Rotation
from dualpath.engine.models.weights import IndexerWeights

_NORM_EPS = 1e-6
_MOST_PRODUCTS = 1 << 26  # scores of heads held at once


def queries(
    shape: ModelShape, weights: IndexerWeights, of_queries: Tensor, x: Tensor, rotation: Rotation
) -> tuple[Tensor, Tensor]:
    """Index heads [n, index heads, index dim], rotated, and their weights [n, index heads] float32.

    of_queries: what queries are made of [n, query rank or hidden]; x: normed hidden states [n, hidden].
    """
    heads = (of_queries @ weights.queries).view(len(x), shape.index_heads, shape.index_dim)
    scale = (shape.index_heads * shape.index_dim) ** -0.5
    return rotation.apply_first(heads), x.float() @ weights.head_weights * scale


def keys(weights: IndexerWeights, x: Tensor, rotation: Rotation) -> Tensor:
    """Of normed hidden states [n, hidden]. [n, index dim]"""
    key = (x @ weights.key).float()
    normed = functional.layer_norm(key, key.shape[1:], weights.key_norm, weights.key_norm_bias, eps=_NORM_EPS)
    return rotation.apply_first(normed.to(x.dtype)[:, None])[:, 0]


def scores(asked: Queries, keys: Tensor) -> Tensor:
    """Of every key [c, index dim] for every new token. [n, c] float32"""
    assert asked.index_heads is not None
    assert asked.index_weights is not None
    num, heads, _ = asked.index_heads.shape
    keys = keys.float().T
    rows = max(1, _MOST_PRODUCTS // (heads * keys.shape[1]))
    found = []
    for first in range(0, num, rows):
        products = asked.index_heads[first : first + rows].float().flatten(0, 1) @ keys
        products = products.relu_().view(-1, heads, keys.shape[1])
        found.append(asked.index_weights[first : first + rows, None] @ products)
    return torch.cat(found)[:, 0]


def selected(scores: Tensor, visible: Tensor, top_k: int) -> Tensor:
    """The `top_k` visible tokens with the highest scores; of equal scores the first ones, so that a token's choice
    depends on its own context alone. scores, visible: [n, c]; returns [n, c] bool."""
    if scores.shape[1] <= top_k:
        return visible
    scores = scores.masked_fill(~visible, float("-inf"))
    least = scores.topk(top_k, dim=1).values[:, -1:]
    above, equal = scores > least, scores == least
    room = top_k - above.sum(dim=1, keepdim=True)
    return visible & (above | (equal & (equal.cumsum(dim=1, dtype=torch.int32) <= room)))


def positions(selected: Tensor, top_k: int) -> Tensor:
    """Of rows that have selected `top_k` tokens each. [n, c] bool -> [n, top_k] int64"""
    return selected.to(torch.uint8).topk(top_k, dim=1).indices
