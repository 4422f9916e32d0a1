"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434), computed in latent space: the matrix that would expand
a latent to keys is applied to queries, the one that would expand it to values to what attention has mixed.

A cache entry is [latent, rotary key, indexer's key].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dualpath.core.model_shape import ModelShape
from dualpath.engine.models import indexer
from dualpath.engine.models.queries import Queries
from dualpath.engine.models.rotation import Rotation
from dualpath.engine.models.weights import LayerWeights

_NORM_EPS = 1e-6  # of latents, whatever a checkpoint says of its other norms


def project(shape: ModelShape, weights: LayerWeights, x: Tensor, rotation: Rotation) -> tuple[Queries, Tensor]:
    """Queries and cache entries [n, E] of normed hidden states [n, hidden]."""
    assert weights.latent_norm is not None
    projected = x @ weights.project
    split = projected.shape[1] - shape.latent_dim - shape.rope_dim
    asking, latent, key = projected.tensor_split([split, split + shape.latent_dim], dim=1)
    if weights.query_norm is not None:
        asking = functional.rms_norm(asking, (split,), weights.query_norm, eps=_NORM_EPS)
    latent = functional.rms_norm(latent, (shape.latent_dim,), weights.latent_norm, eps=_NORM_EPS)
    entries = [latent, rotation.apply(key[:, None])[:, 0]]
    queries = Queries(_absorbed(shape, weights, asking, rotation))
    if weights.indexer is not None:
        of_queries = x if weights.query_norm is None else asking
        index_heads, index_weights = indexer.queries(shape, weights.indexer, of_queries, x, rotation)
        queries = Queries(queries.heads, index_heads, index_weights)
        entries.append(indexer.keys(weights.indexer, x, rotation))
    return queries, torch.cat(entries, dim=1)


def _absorbed(shape: ModelShape, weights: LayerWeights, asking: Tensor, rotation: Rotation) -> Tensor:
    """Queries in latent space, and their rotary part. [n, H, latent + rope]"""
    assert weights.key_up is not None
    plain = asking if weights.query_up is None else asking @ weights.query_up
    content, rotary = plain.view(len(plain), shape.heads, -1).tensor_split([shape.head_dim], dim=2)
    absorbed = torch.einsum("nhd,hdl->nhl", content, weights.key_up)
    return torch.cat([absorbed, rotation.apply(rotary)], dim=2)


def keys_values(shape: ModelShape, context: Tensor) -> tuple[Tensor, Tensor]:
    """Views of cache entries [c, E] as keys [1, c, latent + rope] and values [1, c, latent]."""
    return context[None, :, : shape.latent_dim + shape.rope_dim], context[None, :, : shape.latent_dim]


def index_keys(shape: ModelShape, context: Tensor) -> Tensor:
    """View of cache entries [c, E] as the indexer's keys [c, index dim]."""
    return context[:, shape.latent_dim + shape.rope_dim :]


def expanded(weights: LayerWeights, mixed: Tensor) -> Tensor:
    """Mixed latents [n, H, latent] -> values [n, H, value_dim]."""
    assert weights.value_up is not None
    return torch.einsum("nhl,hld->nhd", mixed, weights.value_up)
