"""Steps of a CUDA graph beside steps of the plain model."""

from __future__ import annotations

import random

import pytest
import torch
from dualpath.core.known_models import MODELS
from dualpath.engine.graphed_decode import GraphedDecode
from dualpath.engine.models.model import Model

pytestmark = pytest.mark.gpu
BLOCK_TOKENS, BLOCKS = 8, 700


@pytest.mark.parametrize("name", ["tiny-gqa", "tiny-mla"])
@torch.inference_mode()
def test_batches_that_come_and_go_choose_what_the_plain_model_chooses(name: str) -> None:
    shape, rng = MODELS[name], random.Random(name)
    model = Model(shape, seed=1, device="cuda")
    memory = torch.zeros(shape.layers, BLOCKS + 1, BLOCK_TOKENS, shape.kv_elements, device="cuda")
    decode = GraphedDecode(model, memory)
    free = rng.sample(range(BLOCKS), BLOCKS)
    token_ids = torch.tensor([rng.randrange(shape.vocab) for _ in range(40)], device="cuda")
    expected = model_choices(model, token_ids)
    sequences: list[tuple[int, list[int]]] = []  # (next position, pages)
    for _ in range(60):
        sequences = [each for each in sequences if each[0] < len(token_ids)]
        while len(sequences) < rng.choice((1, 3, 9, 70)):
            sequences.append((0, sorted(free.pop() for _ in range(len(token_ids) // BLOCK_TOKENS))))
            if len(free) < 100:
                break
        ids = [int(token_ids[at]) for at, _ in sequences]
        found = decode.step(ids, [at for at, _ in sequences], [pages for _, pages in sequences])
        assert found == [expected[at] for at, _ in sequences]
        sequences = [(at + 1, pages) for at, pages in sequences]
        rng.shuffle(sequences)
        if len(free) < 100:
            break


def model_choices(model: Model, token_ids: torch.Tensor) -> list[int]:
    """Without a cache."""
    x = model.embed(token_ids)
    rotation = model.rotation(torch.arange(len(token_ids), device="cuda"))
    for layer in range(model.shape.layers):
        queries, entries = model.project(layer, x, rotation)
        x = x + model.attend(layer, queries, entries, 0)
        x = x + model.feed_forward(layer, x)
    found: list[int] = model.next_tokens(x).tolist()
    return found
