"""Names and shapes of all tensors of a checkpoint, as published and as `transformers` writes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from dualpath.core.model_shape import ModelShape
from dualpath.engine.models.checkpoint_config import CheckpointConfig

Named: TypeAlias = Iterator[tuple[str, tuple[int, ...]]]
# Kept in float32 by some who write checkpoints; computed with in float32 here.
_FLOAT32 = (
    "mlp.gate.weight",
    "mlp.gate.e_score_correction_bias",
    "indexer.k_norm.weight",
    "indexer.k_norm.bias",
    "indexer.weights_proj.weight",
)


def may_be_float32(name: str) -> bool:
    """Whatever the data type of the checkpoint."""
    return name.endswith(_FLOAT32)


def is_ignored(name: str, config: CheckpointConfig) -> bool:
    """Whether a tensor belongs to the layers after the model's own."""
    first = config.shape.layers
    return any(name.startswith(f"model.layers.{layer}.") for layer in range(first, first + config.ignored_layers))


def has_fused_experts(names: Iterable[str]) -> bool:
    """Whether the experts of a layer are one tensor, as `transformers` has them in memory and writes them if asked."""
    return any(name.endswith(".mlp.experts.gate_up_proj") for name in names)


def tensors(shape: ModelShape, is_tied: bool, fused_experts: bool = False) -> Named:
    yield "model.embed_tokens.weight", (shape.vocab, shape.hidden)
    attention = _grouped_query if shape.attention == "gqa" else _latent
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (shape.hidden,)
        yield from attention(shape, f"{prefix}.self_attn")
        yield f"{prefix}.post_attention_layernorm.weight", (shape.hidden,)
        if shape.is_dense(layer):
            yield from _mlp(f"{prefix}.mlp", shape.hidden, shape.mlp)
        else:
            yield from _router(shape, f"{prefix}.mlp.gate")
            yield from _mlp(f"{prefix}.mlp.shared_experts", shape.hidden, shape.shared_experts * shape.expert_mlp)
            experts = _fused_experts if fused_experts else _experts
            yield from experts(shape, f"{prefix}.mlp.experts")
    yield "model.norm.weight", (shape.hidden,)
    if not is_tied:
        yield "lm_head.weight", (shape.vocab, shape.hidden)


def _grouped_query(shape: ModelShape, prefix: str) -> Named:
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    for name, width in (("q", queries), ("k", keys), ("v", keys)):
        yield f"{prefix}.{name}_proj.weight", (width, shape.hidden)
        yield f"{prefix}.{name}_proj.bias", (width,)
    yield f"{prefix}.o_proj.weight", (shape.hidden, queries)


def _latent(shape: ModelShape, prefix: str) -> Named:
    queries = shape.heads * shape.query_dim
    if shape.query_rank:
        yield f"{prefix}.q_a_proj.weight", (shape.query_rank, shape.hidden)
        yield f"{prefix}.q_a_layernorm.weight", (shape.query_rank,)
        yield f"{prefix}.q_b_proj.weight", (queries, shape.query_rank)
    else:
        yield f"{prefix}.q_proj.weight", (queries, shape.hidden)
    yield f"{prefix}.kv_a_proj_with_mqa.weight", (shape.latent_dim + shape.rope_dim, shape.hidden)
    yield f"{prefix}.kv_a_layernorm.weight", (shape.latent_dim,)
    yield f"{prefix}.kv_b_proj.weight", (shape.heads * (shape.head_dim + shape.value_dim), shape.latent_dim)
    yield f"{prefix}.o_proj.weight", (shape.hidden, shape.heads * shape.value_dim)
    if shape.index_heads:
        yield f"{prefix}.indexer.wq_b.weight", (shape.index_heads * shape.index_dim, shape.query_rank or shape.hidden)
        yield f"{prefix}.indexer.wk.weight", (shape.index_dim, shape.hidden)
        yield f"{prefix}.indexer.k_norm.weight", (shape.index_dim,)
        yield f"{prefix}.indexer.k_norm.bias", (shape.index_dim,)
        yield f"{prefix}.indexer.weights_proj.weight", (shape.index_heads, shape.hidden)


def _router(shape: ModelShape, prefix: str) -> Named:
    yield f"{prefix}.weight", (shape.experts, shape.hidden)
    yield f"{prefix}.e_score_correction_bias", (shape.experts,)


def _experts(shape: ModelShape, prefix: str) -> Named:
    for expert in range(shape.experts):
        yield from _mlp(f"{prefix}.{expert}", shape.hidden, shape.expert_mlp)


def _fused_experts(shape: ModelShape, prefix: str) -> Named:
    yield f"{prefix}.gate_up_proj", (shape.experts, 2 * shape.expert_mlp, shape.hidden)
    yield f"{prefix}.down_proj", (shape.experts, shape.hidden, shape.expert_mlp)


def _mlp(prefix: str, hidden: int, width: int) -> Named:
    yield f"{prefix}.gate_proj.weight", (width, hidden)
    yield f"{prefix}.up_proj.weight", (width, hidden)
    yield f"{prefix}.down_proj.weight", (hidden, width)
