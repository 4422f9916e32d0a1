"""Shapes from the config.json of each known architecture; what it has that this engine has not is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from dualpath.core.errors import ModelError
from dualpath.core.model_shape import KvDtype, ModelShape, Yarn

# What the published models of an architecture have, where they could have something else. Absent keys say the same.
_QWEN2_HAS = {"use_sliding_window": False, "hidden_act": "silu"}
_DEEPSEEK_HAS = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "moe_layer_freq": 1,
}


def _qwen2(name: str, kv_dtype: KvDtype, config: Mapping[str, Any]) -> ModelShape:
    _check_has(config, _QWEN2_HAS)
    rope = _rope(config)
    if _rope_type(rope) != "default":
        raise ModelError(f"rotary embedding {rope}; only the plain one is known of this architecture")
    heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
    return ModelShape(
        name,
        "gqa",
        layers=int(config["num_hidden_layers"]),
        hidden=hidden,
        heads=heads,
        head_dim=int(config.get("head_dim") or hidden // heads),
        mlp=int(config["intermediate_size"]),
        vocab=int(config["vocab_size"]),
        kv_heads=int(config.get("num_key_value_heads", heads)),
        kv_dtype=kv_dtype,
        qkv_bias=True,
        rope_base=_rope_base(config, rope),
        norm_eps=float(config.get("rms_norm_eps", 1e-6)),
    )


def _deepseek_v3(name: str, kv_dtype: KvDtype, config: Mapping[str, Any]) -> ModelShape:
    _check_has(config, _DEEPSEEK_HAS)
    rope = _rope(config)
    layers, dense_layers = int(config["num_hidden_layers"]), int(config["first_k_dense_replace"])
    kinds = ["dense"] * dense_layers + ["sparse"] * layers
    _check_has(config, {"mlp_layer_types": kinds[:layers]})
    shared_experts = int(config["n_shared_experts"])
    if not shared_experts:
        raise ModelError("n_shared_experts = 0; only experts beside shared ones are known")
    shape = ModelShape(
        name,
        "mla",
        layers=layers,
        hidden=int(config["hidden_size"]),
        heads=int(config["num_attention_heads"]),
        head_dim=int(config["qk_nope_head_dim"]),
        mlp=int(config["intermediate_size"]),
        vocab=int(config["vocab_size"]),
        latent_dim=int(config["kv_lora_rank"]),
        rope_dim=int(config["qk_rope_head_dim"]),
        query_rank=int(config["q_lora_rank"] or 0),
        value_head_dim=int(config["v_head_dim"]),
        experts=int(config["n_routed_experts"]),
        experts_per_token=int(config["num_experts_per_tok"]),
        shared_experts=shared_experts,
        expert_mlp=int(config["moe_intermediate_size"]),
        dense_layers=dense_layers,
        expert_groups=int(config["n_group"]),
        groups_per_token=int(config["topk_group"]),
        routed_scaling=float(config["routed_scaling_factor"]),
        normalised_routing=bool(config["norm_topk_prob"]),
        kv_dtype=kv_dtype,
        rope_base=_rope_base(config, rope),
        yarn=_yarn(rope),
        norm_eps=float(config.get("rms_norm_eps", 1e-6)),
    )
    _check_routing(shape)
    return shape


_INDEXED = {"indexed_attention", "deepseek_sparse_attention"}  # two names that `transformers` has given it


def _deepseek_v32(name: str, kv_dtype: KvDtype, config: Mapping[str, Any]) -> ModelShape:
    if not config["q_lora_rank"]:
        raise ModelError("q_lora_rank is none; of this architecture only queries with a rank are known")
    shape = _deepseek_v3(name, kv_dtype, config)
    if other := set(config.get("layer_types") or ()) - _INDEXED:
        raise ModelError(f"layer_types {min(other)!r}; only {' and '.join(sorted(_INDEXED))} are known")
    return replace(
        shape,
        index_heads=int(config["index_n_heads"]),
        index_dim=int(config["index_head_dim"]),
        index_top_k=int(config["index_topk"]),
    )


SHAPES: dict[str, Callable[[str, KvDtype, Mapping[str, Any]], ModelShape]] = {
    "Qwen2ForCausalLM": _qwen2,
    "DeepseekV3ForCausalLM": _deepseek_v3,
    "DeepseekV32ForCausalLM": _deepseek_v32,
}


def _check_routing(shape: ModelShape) -> None:
    per_group, rest = divmod(shape.experts, max(shape.expert_groups, 1))
    groups_are_right = 0 < shape.groups_per_token <= shape.expert_groups and per_group >= 2 and not rest
    if not groups_are_right or not 0 < shape.experts_per_token <= shape.groups_per_token * per_group:
        raise ModelError(
            f"{shape.experts_per_token} of {shape.experts} experts (n_routed_experts) in {shape.groups_per_token} of "
            f"{shape.expert_groups} groups (n_group) cannot be"
        )


def _check_has(config: Mapping[str, Any], has: Mapping[str, object]) -> None:
    for key, known in has.items():
        found = config.get(key)
        if found is not None and found != known:
            raise ModelError(f"{key} {found!r}; only {known!r} is known")


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return found


def _rope_type(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type", rope.get("type", "default")))


def _rope_base(config: Mapping[str, Any], rope: Mapping[str, Any]) -> float:
    return float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0)


def _yarn(rope: Mapping[str, Any]) -> Yarn | None:
    kind = _rope_type(rope)
    if kind == "default":
        return None
    if kind != "yarn" or rope.get("attention_factor") is not None or not rope.get("truncate", True):
        raise ModelError(f"rotary embedding {dict(rope)}; known: the plain one, and yarn as DeepSeek's")
    given = {key: float(rope[key]) for key in ("beta_fast", "beta_slow", "mscale", "mscale_all_dim") if rope.get(key)}
    return Yarn(float(rope["factor"]), int(rope["original_max_position_embeddings"]), **given)
