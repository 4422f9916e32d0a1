"""Weights of checkpoints in Hugging Face's format: safetensors, whole or in shards. The rest: checkpoint_config.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from dualpath.core.errors import ModelError
from dualpath.core.model_shape import ModelShape
from dualpath.engine.models.checkpoint_config import CheckpointConfig, read_config
from dualpath.engine.models.checkpoint_layout import arranged
from dualpath.engine.models.checkpoint_names import has_fused_experts, is_ignored, may_be_float32, tensors
from dualpath.engine.models.model import Model
from dualpath.engine.models.weights import Weights

_STORED = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_INDEX = "model.safetensors.index.json"


def load_model(shape: ModelShape, seed: int, checkpoint: str, device: str) -> Model:
    """With a checkpoint's weights, or random ones of the shape's own data type. Raises ModelError."""
    return Model(shape, seed, device, load_weights(Path(checkpoint), device) if checkpoint else None)


def check_weights(folder: Path) -> None:
    """From the heads of the files, without reading weights. Raises ModelError where a tensor is missing, unknown, or
    has another shape or data type than it must."""
    config = read_config(folder)
    files = _files(folder, config)
    expected = dict(tensors(config.shape, config.is_tied, has_fused_experts(files)))
    _check_names(folder, set(files), set(expected))
    for path, opened in _opened(files):
        for name in (name for name, file in files.items() if file == path):
            tensor = opened.get_slice(name)
            found, wanted = tuple(tensor.get_shape()), expected[name]
            known = {_STORED[config.dtype], *(("F32",) if may_be_float32(name) else ())}
            if found != wanted or tensor.get_dtype() not in known:
                raise ModelError(
                    f"{path}: {name} is {tensor.get_dtype()} {list(found)}; config.json makes it "
                    f"{' or '.join(sorted(known))} {list(wanted)}"
                )


def load_weights(folder: Path, device: str) -> Weights:
    """Of the checkpoint's own data type. Raises ModelError."""
    check_weights(folder)
    config = read_config(folder)
    files = _files(folder, config)
    found: dict[str, Tensor] = {}
    for path, opened in _opened(files):
        for name in (name for name, file in files.items() if file == path):
            found[name] = opened.get_tensor(name).to(device)
    return arranged(found, config)


def _opened(files: dict[str, Path]) -> Iterator[tuple[Path, Any]]:
    """Every file with weights, open."""
    for path in sorted(set(files.values())):
        try:
            with safe_open(path, framework="pt") as opened:
                yield path, opened
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path}: cannot be read: {error}") from None


def _files(folder: Path, config: CheckpointConfig) -> dict[str, Path]:
    """Name of each tensor that the model has -> the file that has it."""
    return {name: path for name, path in _all_files(folder).items() if not is_ignored(name, config)}


def _all_files(folder: Path) -> dict[str, Path]:
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


def _check_names(folder: Path, found: set[str], expected: set[str]) -> None:
    scales = sorted(name for name in found if name.endswith("weight_scale_inv"))
    if scales:
        raise ModelError(
            f"{folder}: the checkpoint has {scales[0]}: FP8 with scales is not known; convert it to bfloat16"
        )
    for what, names in (("misses", expected - found), ("has beside what is known", found - expected)):
        if names:
            first = sorted(names)[:3]
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ModelError(f"{folder}: the checkpoint {what} {', '.join(first)}{more}")
