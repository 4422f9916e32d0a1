"""What a checkpoint in Hugging Face's format is: config.json, read without any weight and without torch.

What a model has that this engine does not is refused by name. Qwen2 and Qwen2.5 (dense, grouped-query attention with
biases; arXiv 2412.15115) are read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from dualpath.core.errors import ModelError
from dualpath.core.model_shape import ModelShape

ARCHITECTURES = ("Qwen2ForCausalLM",)
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_DIGEST_BYTES = 1 << 20  # of each file with weights


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    shape: ModelShape
    dtype: str  # of weights and KV: a name of torch's
    is_tied: bool  # the output layer is the embedding


def read_config(folder: Path) -> CheckpointConfig:
    """Raises ModelError."""
    config = _config(folder)
    architecture = (config.get("architectures") or ["none"])[0]
    if architecture not in ARCHITECTURES:
        raise ModelError(f"{folder}: config.json: architecture {architecture}; known: {', '.join(ARCHITECTURES)}")
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    if dtype not in _BYTES:
        raise ModelError(f"{folder}: config.json: dtype {dtype!r}; known: {', '.join(_BYTES)}")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        raise ModelError(f"{folder}: config.json: rotary embedding {rope}; only the plain one is known")
    if config.get("use_sliding_window"):
        raise ModelError(f"{folder}: config.json: use_sliding_window; only attention over the whole context is known")
    if config.get("hidden_act", "silu") != "silu":
        raise ModelError(f"{folder}: config.json: hidden_act {config['hidden_act']!r}; only silu is known")
    try:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        shape = ModelShape(
            f"{folder.name}-{_digest(folder)}",
            "gqa",
            layers=int(config["num_hidden_layers"]),
            hidden=hidden,
            heads=heads,
            head_dim=int(config.get("head_dim") or hidden // heads),
            mlp=int(config["intermediate_size"]),
            vocab=int(config["vocab_size"]),
            kv_heads=int(config.get("num_key_value_heads", heads)),
            kv_element_bytes=_BYTES[dtype],
            qkv_bias=True,
            rope_base=float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0),
            norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder}: config.json: {type(error).__name__}: {error}") from None
    return CheckpointConfig(shape, dtype, bool(config.get("tie_word_embeddings", False)))


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
