"""Passes on a GPU, with a CUDA graph for each layer and without, beside the plain way."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from dualpath.core.known_models import MODELS
from dualpath.engine.forward_pass import Chunk
from dualpath.engine.graphed_pass import GraphedPasses
from dualpath.engine.models.model import Model
from dualpath.engine.plain_pass import PlainPass

pytestmark = pytest.mark.gpu
HELD, ROWS = 3, 6000
SHAPE = replace(MODELS["tiny-gqa"], kv_dtype="bf16", layers=5)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(SHAPE, seed=1, device="cuda")


def chunks(seed: int, num: int, most_new: int) -> list[Chunk]:
    """Of random lengths, at rows that lie apart."""
    rng, found, row = random.Random(seed), [], 0
    for _ in range(num):
        row += rng.randrange(20)
        new, cached = rng.randint(1, most_new), rng.choice((0, rng.randrange(120)))
        ids = np.array([rng.randrange(SHAPE.vocab) for _ in range(new)], dtype=np.int64)
        found.append(Chunk(row, cached, ids))
        row += cached + new
    assert row <= ROWS
    return found


# in turn: one token; a batch with graphs, padded; as many chunks as have graphs; more chunks; more tokens
@pytest.mark.parametrize(("num", "most_new"), [(1, 1), (5, 60), (32, 30), (33, 30), (4, 1000)])
@torch.inference_mode()
def test_kv_and_choices_are_those_of_the_plain_way(model: Model, num: int, most_new: int) -> None:
    torch.manual_seed(num)
    start = torch.randn(HELD, ROWS + 1, SHAPE.kv_elements, device="cuda", dtype=torch.bfloat16)
    fast_memory, plain_memory = start.clone(), start.clone()
    passes = GraphedPasses(model, fast_memory)
    for seed in range(3):  # graphs are used again
        fast_memory.copy_(start)
        plain_memory.copy_(start)
        batch = chunks(seed, num, most_new)
        fast, plain = passes(batch), PlainPass(model, plain_memory, batch)
        for layer in range(SHAPE.layers):
            fast.layer(layer)
            plain.layer(layer)
        torch.testing.assert_close(fast_memory[:, :-1], plain_memory[:, :-1], rtol=0.05, atol=0.1)
        its_rows = torch.zeros(ROWS + 1, dtype=torch.bool, device="cuda")
        for chunk in batch:
            its_rows[chunk.row + chunk.cached : chunk.row + chunk.cached + chunk.new] = True
        its_rows[-1] = True  # what pads
        assert torch.equal(fast_memory[:, ~its_rows], start[:, ~its_rows])
        agree = [a == b for a, b in zip(fast.choices(), plain.choices(), strict=True)]
        assert sum(agree) >= 0.9 * num  # 16-bit logits can tie
