"""What a checkpoint in Hugging Face's format is: config.json, read without any weight and without torch.

What a model has that this engine does not is refused by name. Read are Qwen2 and Qwen2.5 (dense, grouped-query
attention with biases; arXiv 2412.15115), DeepSeek-V3 (arXiv 2412.19437) and DeepSeek-V3.2.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from dualpath.core.errors import ModelError
from dualpath.core.model_shape import KvDtype, ModelShape
from dualpath.engine.models.checkpoint_shapes import SHAPES

_KV_DTYPES: dict[str, KvDtype] = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_DIGEST_BYTES = 1 << 20  # of each file with weights


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
    if architecture not in SHAPES:
        raise ModelError(f"architecture {architecture}; known: {', '.join(SHAPES)}")
    quantisation = config.get("quantization_config")
    if quantisation:
        method = quantisation.get("quant_method", "unknown")
        raise ModelError(
            f"quantization_config {method!r}: weights with scales are not known; convert the checkpoint to bfloat16"
        )
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    if dtype not in _KV_DTYPES:
        raise ModelError(f"dtype {dtype!r}; known: {', '.join(_KV_DTYPES)}")
    return CheckpointConfig(
        SHAPES[architecture](f"{name}-{digest}", _KV_DTYPES[dtype], config),
        dtype,
        is_tied=bool(config.get("tie_word_embeddings", False)),
        rope_is_interleaved=architecture != "Qwen2ForCausalLM" and bool(config.get("rope_interleave", True)),
        ignored_layers=int(config.get("num_nextn_predict_layers") or 0),
    )


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
