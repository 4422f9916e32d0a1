"""A model run in chunks, whose cache entries a test keeps."""

from __future__ import annotations

import random

import torch
from dualpath.engine.models.model import Model
from torch import Tensor


def logits(model: Model, token_ids: Tensor, cuts: list[int]) -> Tensor:
    """In chunks that end at cuts; entries of earlier chunks are the cache. [n, vocab]"""
    shape = (model.shape.layers, len(token_ids), model.shape.kv_elements)
    cache = torch.zeros(shape, dtype=model.dtype, device=model.device)
    found = []
    for start, end in zip([0, *cuts[:-1]], cuts, strict=True):
        x = model.embed(token_ids[start:end])
        rotation = model.rotation(torch.arange(start, end, device=model.device))
        for layer in range(model.shape.layers):
            queries, entries = model.project(layer, x, rotation)
            cache[layer, start:end] = entries
            x = x + model.attend(layer, queries, cache[layer, :end], start)
            x = x + model.feed_forward(layer, x)
        found.append(model.logits(x))
    return torch.cat(found)


def random_cuts(seed: int, prompt: int, total: int) -> list[int]:
    """Prefill in chunks, then decode one by one."""
    rng = random.Random(seed)
    return [*sorted(rng.sample(range(1, prompt), rng.randint(0, 5))), prompt, *range(prompt + 1, total + 1)]


def continued(model: Model, prompt: Tensor, num: int) -> list[int]:
    """A prompt and its greedy continuation."""
    context = prompt
    for _ in range(num):
        context = torch.cat([context, logits(model, context, [len(context)])[-1:].argmax(1)])
    found: list[int] = context.tolist()
    return found
