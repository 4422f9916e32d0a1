"""Weights of a model, laid out for its products: each matrix as [in, out], those of one input side by side.

H heads, E elements of a cache entry, N experts.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class IndexerWeights:
    """What tells which tokens are attended to."""

    queries: Tensor  # [query rank or hidden, index heads * index dim]
    key: Tensor  # [hidden, index dim]
    key_norm: Tensor  # [index dim] float32
    key_norm_bias: Tensor  # [index dim] float32
    head_weights: Tensor  # [hidden, index heads] float32


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """Routed experts and their router."""

    router: Tensor  # [hidden, N] float32
    correction: Tensor  # [N] float32: balances which experts are chosen, not what they weigh
    gate_up: Tensor  # [N, hidden, 2 * expert mlp]
    down: Tensor  # [N, expert mlp, hidden]


@dataclass(frozen=True, slots=True)
class LayerWeights:
    attention_norm: Tensor  # [hidden]
    project: Tensor  # [hidden, Q + E, less the indexer's key]: queries, or with a query rank their latent; then entries
    project_bias: Tensor | None  # gqa: as wide
    query_norm: Tensor | None  # mla with a query rank: [query rank]
    query_up: Tensor | None  # mla with a query rank: [query rank, H * query dim]
    latent_norm: Tensor | None  # mla: [latent_dim]
    key_up: Tensor | None  # mla: [H, head_dim, latent_dim], takes a query into latent space
    value_up: Tensor | None  # mla: [H, latent_dim, value_dim]
    indexer: IndexerWeights | None  # where attention is sparse
    output: Tensor  # [H * value_dim, hidden]
    mlp_norm: Tensor  # [hidden]
    gate_up: Tensor  # [hidden, 2 * mlp]: of a dense layer's MLP, or of the shared experts
    down: Tensor  # [mlp, hidden]
    experts: ExpertWeights | None  # where the layer is not dense


@dataclass(frozen=True, slots=True)
class Weights:
    """Of one data type but for what is said to be float32, on one device."""

    embedding: Tensor  # [vocab, hidden]
    layers: list[LayerWeights]
    final_norm: Tensor  # [hidden]
    head: Tensor  # [hidden, vocab]
