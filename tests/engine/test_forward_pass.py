"""Both ways of computing a batch on a CPU, beside the model without a cache."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
import torch
from cut_cache import logits
from dualpath.core.known_models import MODELS
from dualpath.engine.exact_pass import ExactPass
from dualpath.engine.forward_pass import Chunk, Forward
from dualpath.engine.models.model import Model
from dualpath.engine.plain_pass import PlainPass

TILE, HELD, ROWS = 8, 2, 400


def plain(model: Model, memory: torch.Tensor) -> Forward:
    return partial(PlainPass, model, memory)


def exact(model: Model, memory: torch.Tensor) -> Forward:
    return partial(ExactPass, model, memory, TILE)


def entries(model: Model, ids: Sequence[int]) -> torch.Tensor:
    """Of all layers, computed at once. [layers, n, E]"""
    memory = torch.zeros(model.shape.layers, ROWS, model.shape.kv_elements)
    forward = PlainPass(model, memory, [Chunk(0, 0, np.array(ids, dtype=np.int64))])
    for layer in range(model.shape.layers):
        forward.layer(layer)
    return memory[:, : len(ids)]


@pytest.mark.parametrize("name", ["tiny-gqa", "tiny-mla", "tiny-dsa"])
@pytest.mark.parametrize("way", [plain, exact])
@torch.inference_mode()
def test_chunks_behind_cached_tokens_choose_and_leave_what_the_whole_prompt_does(
    way: Callable[[Model, torch.Tensor], Forward], name: str
) -> None:
    """Slots of device memory are used again: each layer's cached entries are put there just before it is computed."""
    model, rng = Model(MODELS[name], seed=2), random.Random(name)
    prompts = [[rng.randrange(model.shape.vocab) for _ in range(rng.randint(20, 70))] for _ in range(4)]
    cached = [0, *(rng.randrange(1, len(prompt)) for prompt in prompts[1:])]
    rows = [0, 80, 160, 240]  # each begins a tile
    memory = torch.zeros(HELD, ROWS, model.shape.kv_elements)
    chunks = [
        Chunk(row, num, np.array(prompt[num:], dtype=np.int64))
        for row, num, prompt in zip(rows, cached, prompts, strict=True)
    ]
    whole = [entries(model, prompt) for prompt in prompts]
    forward = way(model, memory)(chunks)
    for layer in range(model.shape.layers):
        slot = memory[layer % HELD]
        for row, num, kv in zip(rows, cached, whole, strict=True):
            slot[row : row + num] = kv[layer, :num]
        forward.layer(layer)
        for row, kv in zip(rows, whole, strict=True):
            torch.testing.assert_close(slot[row : row + kv.shape[1]], kv[layer], rtol=0, atol=1e-4)
    expected = [int(logits(model, torch.tensor(prompt), [len(prompt)])[-1].argmax()) for prompt in prompts]
    assert forward.choices() == expected
