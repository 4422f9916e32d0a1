"""What a checkpoint in Hugging Face's format is: config.json, read without any weight and without torch.

What a model has that this engine does not is refused by name. Read are Qwen2 and Qwen2.5 (dense, grouped-query
attention with biases; arXiv 2412.15115), DeepSeek-V3 (arXiv 2412.19437) and DeepSeek-V3.2.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import xxhash

from dualpath.core.errors import ModelError
from dualpath.core.model_shape import KvDtype, ModelShape, Yarn

_KV_DTYPES: dict[str, KvDtype] = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_DIGEST_BYTES = 1 << 20  # of each file with weights
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


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    shape: ModelShape
    dtype: str  # of weights and KV: a name of torch's
    is_tied: bool  # the output layer is the embedding
    rope_is_interleaved: bool  # rotated elements are pairs of neighbours, not halves
    ignored_layers: int  # that come after the model's own: they predict more tokens at once


def read_config(folder: Path) -> CheckpointConfig:
    """Raises ModelError."""
    config = _config(folder)
    try:
        return _read(folder.name, _digest(folder), config)
    except ModelError as error:
        raise ModelError(f"{folder}: config.json: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder}: config.json: {type(error).__name__}: {error}") from None


def _read(name: str, digest: str, config: Mapping[str, Any]) -> CheckpointConfig:
    architecture = (config.get("architectures") or ["none"])[0]
    if architecture not in _SHAPES:
        raise ModelError(f"architecture {architecture}; known: {', '.join(_SHAPES)}")
    quantisation = config.get("quantization_config")
    if quantisation:
        method = quantisation.get("quant_method", "unknown")
        raise ModelError(
            f"quantization_config: weights in {method}, with weight_scale_inv beside them, are not known; convert the "
            "checkpoint to bfloat16"
        )
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    if dtype not in _KV_DTYPES:
        raise ModelError(f"dtype {dtype!r}; known: {', '.join(_KV_DTYPES)}")
    return CheckpointConfig(
        _SHAPES[architecture](f"{name}-{digest}", _KV_DTYPES[dtype], config),
        dtype,
        is_tied=bool(config.get("tie_word_embeddings", False)),
        rope_is_interleaved=architecture != "Qwen2ForCausalLM" and bool(config.get("rope_interleave", True)),
        ignored_layers=int(config.get("num_nextn_predict_layers") or 0),
    )


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


def _deepseek_v32(name: str, kv_dtype: KvDtype, config: Mapping[str, Any]) -> ModelShape:
    if not config["q_lora_rank"]:
        raise ModelError("q_lora_rank is none; of this architecture only queries with a rank are known")
    shape = _deepseek_v3(name, kv_dtype, config)
    _check_has(config, {"layer_types": ["indexed_attention"] * shape.layers})
    return replace(
        shape,
        index_heads=int(config["index_n_heads"]),
        index_dim=int(config["index_head_dim"]),
        index_top_k=int(config["index_topk"]),
    )


_SHAPES: dict[str, Callable[[str, KvDtype, Mapping[str, Any]], ModelShape]] = {
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


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path}: cannot be read: {error}; a checkpoint is a folder as `transformers` writes it"
        ) from None
    if not isinstance(found, dict):
        raise ModelError(f"{path}: not an object")
    return found


def _digest(folder: Path) -> str:
    """Tells checkpoints of one name apart: of config.json and the heads of all files with weights."""
    digest = xxhash.xxh3_64((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(file.read(_DIGEST_BYTES))
    return digest.hexdigest()[:8]
