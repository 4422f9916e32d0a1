"""Weights of checkpoints in Hugging Face's format: safetensors, whole or in shards. The rest: checkpoint_config.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dualpath.core.errors import ModelError
from dualpath.core.model_shape import ModelShape
from dualpath.engine.checkpoint_config import read_config
from dualpath.engine.model import LayerWeights, Model, Weights

_STORED = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_INDEX = "model.safetensors.index.json"


def load_model(shape: ModelShape, seed: int, checkpoint: str, device: str) -> Model:
    """With a checkpoint's weights, or random ones of the shape's own data type. Raises ModelError."""
    if checkpoint:
        weights = load_weights(Path(checkpoint), device)
        return Model(shape, device=device, dtype=weights.embedding.dtype, weights=weights)
    return Model(shape, seed, device)


def check_weights(folder: Path) -> None:
    """From the heads of the files, without reading weights. Raises ModelError where a tensor is missing, unknown, or
    has another shape or data type than it must."""
    config = read_config(folder)
    files = _files(folder)
    expected = dict(_tensors(config.shape, config.is_tied))
    _check_names(folder, set(files), set(expected))
    wanted_dtype = _STORED[config.dtype]
    for path, opened in _opened(files):
        for name in (name for name, file in files.items() if file == path):
            tensor = opened.get_slice(name)
            found, wanted = tuple(tensor.get_shape()), expected[name]
            if found != wanted or tensor.get_dtype() != wanted_dtype:
                raise ModelError(
                    f"{path}: {name} is {tensor.get_dtype()} {list(found)}; config.json makes it {wanted_dtype} "
                    f"{list(wanted)}"
                )


def load_weights(folder: Path, device: str) -> Weights:
    """Of the checkpoint's own data type. Raises ModelError."""
    check_weights(folder)
    files = _files(folder)
    found: dict[str, Tensor] = {}
    for path, opened in _opened(files):
        for name in (name for name, file in files.items() if file == path):
            found[name] = opened.get_tensor(name).to(device)
    return _arranged(found, read_config(folder).shape)


def _opened(files: dict[str, Path]) -> Iterator[tuple[Path, Any]]:
    """Every file with weights, open."""
    for path in sorted(set(files.values())):
        try:
            with safe_open(path, framework="pt") as opened:
                yield path, opened
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path}: cannot be read: {error}") from None


def _files(folder: Path) -> dict[str, Path]:
    """Name of each tensor -> the file that has it."""
    index = folder / _INDEX
    if index.exists():
        try:
            named = json.loads(index.read_text())["weight_map"]
            return {str(name): folder / str(file) for name, file in named.items()}
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise ModelError(f"{index}: cannot be read: {type(error).__name__}: {error}") from None
    path = folder / "model.safetensors"
    try:
        with safe_open(path, framework="pt") as opened:
            return dict.fromkeys(opened.keys(), path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from None


def _tensors(shape: ModelShape, is_tied: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all tensors, as published."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield "model.embed_tokens.weight", (shape.vocab, shape.hidden)
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (shape.hidden,)
        for name, width in (("q", queries), ("k", keys), ("v", keys)):
            yield f"{prefix}.self_attn.{name}_proj.weight", (width, shape.hidden)
            yield f"{prefix}.self_attn.{name}_proj.bias", (width,)
        yield f"{prefix}.self_attn.o_proj.weight", (shape.hidden, queries)
        yield f"{prefix}.post_attention_layernorm.weight", (shape.hidden,)
        for name in ("gate", "up"):
            yield f"{prefix}.mlp.{name}_proj.weight", (shape.mlp, shape.hidden)
        yield f"{prefix}.mlp.down_proj.weight", (shape.hidden, shape.mlp)
    yield "model.norm.weight", (shape.hidden,)
    if not is_tied:
        yield "lm_head.weight", (shape.vocab, shape.hidden)


def _check_names(folder: Path, found: set[str], expected: set[str]) -> None:
    for what, names in (("misses", expected - found), ("has beside what is known", found - expected)):
        if names:
            first = sorted(names)[:3]
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ModelError(f"{folder}: the checkpoint {what} {', '.join(first)}{more}")


def _arranged(found: dict[str, Tensor], shape: ModelShape) -> Weights:
    """As the engine has them: matrices transposed, those of one product side by side. Empties `found` on its way."""

    def side_by_side(*names: str) -> Tensor:
        return torch.cat([found.pop(name).T for name in names], dim=1).contiguous()

    layers = []
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        parts = [f"{prefix}.self_attn.{name}_proj" for name in ("q", "k", "v")]
        layers.append(
            LayerWeights(
                attention_norm=found.pop(f"{prefix}.input_layernorm.weight"),
                project=side_by_side(*(f"{part}.weight" for part in parts)),
                project_bias=torch.cat([found.pop(f"{part}.bias") for part in parts]),
                key_up=None,
                value_up=None,
                output=side_by_side(f"{prefix}.self_attn.o_proj.weight"),
                mlp_norm=found.pop(f"{prefix}.post_attention_layernorm.weight"),
                gate_up=side_by_side(f"{prefix}.mlp.gate_proj.weight", f"{prefix}.mlp.up_proj.weight"),
                down=side_by_side(f"{prefix}.mlp.down_proj.weight"),
            )
        )
    embedding = found.pop("model.embed_tokens.weight")
    head = found.pop("lm_head.weight", embedding).T.contiguous()
    return Weights(embedding, layers, found.pop("model.norm.weight"), head)
