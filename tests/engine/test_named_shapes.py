"""Named shapes have as many weights as the models they are named after, and run."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from dualpath.core.errors import ModelError
from dualpath.core.known_models import MODELS
from dualpath.core.model_shape import KvDtype
from dualpath.engine.models.checkpoint_names import tensors
from dualpath.engine.models.model import Model
from dualpath.engine.models.random_weights import random_weights


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("qwen2.5-7b", 7.616),  # Qwen2.5's report: 7.61
        ("qwen2.5-32b", 32.764),  # 32.5
        ("ds-660b", 671.878),  # 671 of DeepSeek-V3, and the indexers
        ("ds-27b", 27.198),  # the paper's name for it; so the ranks it does not state are near
        ("deepseek-v3.2-small", 14.271),  # 28.5 GB in bf16
    ],
)
def test_the_number_of_weights(name: str, billions: float) -> None:
    found = sum(math.prod(sizes) for _, sizes in tensors(MODELS[name], is_tied=False)) / 1e9
    assert found == pytest.approx(billions, abs=0.001)


@pytest.mark.parametrize(
    ("kv_dtype", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
@pytest.mark.parametrize("name", ["tiny-gqa", "tiny-mla", "tiny-dsa"])
def test_weights_and_kv_have_the_shapes_data_type(name: str, kv_dtype: KvDtype, dtype: torch.dtype) -> None:
    model = Model(replace(MODELS[name], kv_dtype=kv_dtype), seed=3)
    _, entries = model.project(1, model.embed(torch.arange(5)), model.rotation(torch.arange(5)))
    assert entries.shape == (5, model.shape.kv_elements)
    assert model.dtype == entries.dtype == model.weights.embedding.dtype == model.layers[2].down.dtype == dtype
    assert entries.element_size() * model.shape.kv_elements == model.shape.kv_layer_bytes


def test_fp8_is_not_computed_with() -> None:
    with pytest.raises(ModelError, match=r"ds-660b: kv_dtype = 'fp8' is simulated only; use bf16, fp16 or fp32"):
        Model(MODELS["ds-660b"])


def test_weights_are_drawn_in_float32_and_cast() -> None:
    wide, narrow = (random_weights(MODELS["tiny-dsa"], 5, "cpu", dtype) for dtype in (torch.float32, torch.bfloat16))
    assert torch.equal(wide.head.bfloat16(), narrow.head)
    first, second = (weights.layers[1].experts for weights in (wide, narrow))
    assert first is not None
    assert second is not None
    assert torch.equal(first.gate_up.bfloat16(), second.gate_up)
    assert second.router.dtype == second.correction.dtype == torch.float32
