"""Presets too large for tests to hold run with tensors that have shapes and no values. So these also show that no step
needs to know a value: none has a shape that depends on what is computed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from dualpath.core.known_models import MODELS
from dualpath.engine.models.model import Model
from torch._subclasses.fake_tensor import FakeTensorMode

LARGE = ("qwen2.5-7b", "qwen2.5-32b", "ds-27b", "ds-660b", "deepseek-v3.2-small")


@pytest.mark.parametrize("name", [*LARGE, "tiny-dsa"])
def test_a_preset_runs_without_knowing_any_value(name: str) -> None:
    shape = replace(MODELS[name], kv_dtype="bf16")
    with FakeTensorMode():
        model = Model(shape)
        model.device = "a GPU"  # which is not waited for
        for layer in (0, shape.layers - 1):
            for new, cached in ((1, 0), (1, 5000), (70, 0), (70, 5000)):
                x = model.embed(torch.zeros(new, dtype=torch.int64))
                queries, entries = model.project(layer, x, model.rotation(torch.arange(cached, cached + new)))
                assert entries.shape == (new, shape.kv_elements)
                context = torch.cat([torch.empty(cached, shape.kv_elements, dtype=model.dtype), entries])
                x = x + model.attend(layer, queries, context, cached)
                x = x + model.feed_forward(layer, x)
                assert (x.shape, x.dtype) == ((new, shape.hidden), torch.bfloat16)
        assert model.logits(x).shape == (70, shape.vocab)
