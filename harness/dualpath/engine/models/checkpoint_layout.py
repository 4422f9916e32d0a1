"""From a checkpoint's tensors to the engine's layout of weights."""

from __future__ import annotations

import torch
from torch import Tensor

from dualpath.core.model_shape import ModelShape
from dualpath.engine.models.checkpoint_config import CheckpointConfig
from dualpath.engine.models.weights import ExpertWeights, IndexerWeights, LayerWeights, Weights


def arranged(found: dict[str, Tensor], config: CheckpointConfig) -> Weights:
    """Matrices transposed, those of one product side by side. Empties `found` on its way."""
    arrange = _grouped_query_layer if config.shape.attention == "gqa" else _latent_layer
    layers = [arrange(_Part(found, f"model.layers.{layer}."), layer, config) for layer in range(config.shape.layers)]
    embedding = found.pop("model.embed_tokens.weight")
    head = found.pop("lm_head.weight", embedding).T.contiguous()
    return Weights(embedding, layers, found.pop("model.norm.weight"), head)


class _Part:
    """Tensors whose names begin alike."""

    def __init__(self, found: dict[str, Tensor], prefix: str) -> None:
        self._found = found
        self._prefix = prefix

    def under(self, prefix: str) -> _Part:
        return _Part(self._found, self._prefix + prefix)

    def has(self, name: str) -> bool:
        return self._prefix + name in self._found

    def take(self, name: str) -> Tensor:
        return self._found.pop(self._prefix + name)

    def side_by_side(self, *names: str) -> Tensor:
        """Transposed matrices. [in, all their out]"""
        return torch.cat([self.take(f"{name}.weight").T for name in names], dim=1).contiguous()


def _grouped_query_layer(part: _Part, layer: int, config: CheckpointConfig) -> LayerWeights:
    names = [f"self_attn.{name}_proj" for name in ("q", "k", "v")]
    return LayerWeights(
        attention_norm=part.take("input_layernorm.weight"),
        project=part.side_by_side(*names),
        project_bias=torch.cat([part.take(f"{name}.bias") for name in names]),
        query_norm=None,
        query_up=None,
        latent_norm=None,
        key_up=None,
        value_up=None,
        indexer=None,
        output=part.side_by_side("self_attn.o_proj"),
        mlp_norm=part.take("post_attention_layernorm.weight"),
        gate_up=part.side_by_side("mlp.gate_proj", "mlp.up_proj"),
        down=part.side_by_side("mlp.down_proj"),
        experts=None,
    )


def _latent_layer(part: _Part, layer: int, config: CheckpointConfig) -> LayerWeights:
    shape, attention, mlp = config.shape, part.under("self_attn."), part.under("mlp.")
    is_dense = shape.is_dense(layer)
    rank = bool(shape.query_rank)
    queries = attention.take("q_b_proj.weight" if rank else "q_proj.weight")
    queries = _in_halves(queries.view(shape.heads, shape.query_dim, -1), config).flatten(0, 1)
    entries = _in_halves(attention.take("kv_a_proj_with_mqa.weight")[None], config)[0]
    up = attention.take("kv_b_proj.weight").view(shape.heads, shape.head_dim + shape.value_dim, shape.latent_dim)
    key_up, value_up = up[:, : shape.head_dim], up[:, shape.head_dim :]
    first = attention.take("q_a_proj.weight") if rank else queries
    always = mlp if is_dense else mlp.under("shared_experts.")
    return LayerWeights(
        attention_norm=part.take("input_layernorm.weight"),
        project=torch.cat([first, entries]).T.contiguous(),
        project_bias=None,
        query_norm=attention.take("q_a_layernorm.weight") if rank else None,
        query_up=queries.T.contiguous() if rank else None,
        latent_norm=attention.take("kv_a_layernorm.weight"),
        key_up=key_up.contiguous(),
        value_up=value_up.transpose(1, 2).contiguous(),
        indexer=_indexer(attention.under("indexer.")) if shape.index_heads else None,
        output=attention.side_by_side("o_proj"),
        mlp_norm=part.take("post_attention_layernorm.weight"),
        gate_up=always.side_by_side("gate_proj", "up_proj"),
        down=always.side_by_side("down_proj"),
        experts=None if is_dense else _experts(mlp, shape),
    )


def _in_halves(heads: Tensor, config: CheckpointConfig) -> Tensor:
    """Rows of rotated elements, the last ones of each head, in halves layout. [heads, dim, in]"""
    if not config.rope_is_interleaved:
        return heads
    first = heads.shape[1] - config.shape.rope_dim
    return torch.cat([heads[:, :first], heads[:, first::2], heads[:, first + 1 :: 2]], dim=1)


def _indexer(part: _Part) -> IndexerWeights:
    """Its rotation is in halves as published."""
    return IndexerWeights(
        queries=part.side_by_side("wq_b"),
        key=part.side_by_side("wk"),
        key_norm=part.take("k_norm.weight").float(),
        key_norm_bias=part.take("k_norm.bias").float(),
        head_weights=part.side_by_side("weights_proj").float(),
    )


def _experts(part: _Part, shape: ModelShape) -> ExpertWeights:
    if part.has("experts.gate_up_proj"):
        gate_up = part.take("experts.gate_up_proj").transpose(1, 2).contiguous()
        down = part.take("experts.down_proj").transpose(1, 2).contiguous()
    else:
        experts = [part.under(f"experts.{expert}.") for expert in range(shape.experts)]
        gate_up = torch.stack([expert.side_by_side("gate_proj", "up_proj") for expert in experts])
        down = torch.stack([expert.side_by_side("down_proj") for expert in experts])
    router, correction = part.side_by_side("gate").float(), part.take("gate.e_score_correction_bias").float()
    return ExpertWeights(router, correction, gate_up, down)
