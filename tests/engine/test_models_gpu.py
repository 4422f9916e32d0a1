"""Models on a GPU: the same results as on the CPU, and decode steps that ask the device for nothing."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from cut_cache import logits, random_cuts
from dualpath.core.known_models import MODELS
from dualpath.engine.models.feed_forward import experts_grouped, experts_in_turn
from dualpath.engine.models.model import Model
from dualpath.engine.models.random_weights import random_weights
from dualpath.engine.models.router import route
from dualpath.engine.models.weights import ExpertWeights, IndexerWeights, LayerWeights, Weights

pytestmark = pytest.mark.gpu


def on_gpu(weights: Weights) -> Weights:
    """Copies of weights drawn on the CPU."""

    def copied(part: object) -> object:
        if isinstance(part, torch.Tensor):
            return part.cuda()
        if isinstance(part, LayerWeights | ExpertWeights | IndexerWeights):
            return type(part)(*(copied(getattr(part, name)) for name in part.__slots__))
        return part

    layers = [copied(layer) for layer in weights.layers]
    return Weights(weights.embedding.cuda(), layers, weights.final_norm.cuda(), weights.head.cuda())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["tiny-gqa", "tiny-mla", "tiny-dsa"])
def test_logits_are_those_of_the_cpu_however_the_cache_is_cut(name: str) -> None:
    shape = MODELS[name]
    weights = random_weights(shape, 3, "cpu", torch.float32)
    ids = torch.randint(0, shape.vocab, (70,), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = logits(Model(shape, weights=weights), ids, [70])
        found = logits(Model(shape, device="cuda", weights=on_gpu(weights)), ids.cuda(), random_cuts(0, 40, 70))
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("num", [1, 7, 500])
def test_both_ways_through_experts_agree_in_bfloat16(num: int) -> None:
    shape = replace(MODELS["tiny-dsa"], hidden=256, expert_mlp=128, experts=32, experts_per_token=4, kv_dtype="bf16")
    weights = random_weights(shape, 0, "cuda", torch.bfloat16).layers[1].experts
    assert weights is not None
    x = torch.randn(num, 256, device="cuda", dtype=torch.bfloat16)
    experts, shares = route(shape, weights, x)
    plain = experts_in_turn(weights, x, experts, shares)
    torch.testing.assert_close(experts_grouped(weights, x, experts, shares), plain, rtol=2**-6, atol=2**-4)


def test_a_decode_step_of_a_sparse_model_can_be_captured() -> None:
    """In a CUDA graph, so it neither waits for the device nor has shapes that depend on what the device computes."""
    shape = replace(MODELS["tiny-dsa"], kv_dtype="bf16", hidden=256, expert_mlp=128)
    with torch.inference_mode():
        model = Model(shape, seed=1, device="cuda")
        context = torch.randn(40, shape.kv_elements, device="cuda", dtype=torch.bfloat16)
        hidden = torch.randn(1, shape.hidden, device="cuda", dtype=torch.bfloat16)
        rotation = model.rotation(torch.tensor([39], device="cuda"))

        def step() -> torch.Tensor:
            queries, entries = model.project(1, hidden, rotation)
            context[39:] = entries
            x = hidden + model.attend(1, queries, context, 39)
            return x + model.feed_forward(1, x)

        expected = step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = step()
        graph.replay()
        torch.cuda.synchronize()
    torch.testing.assert_close(found, expected)


def test_weights_of_a_7b_are_drawn_in_seconds_and_little_more_memory_than_they_have() -> None:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    start = time.monotonic()
    model = Model(MODELS["qwen2.5-7b"], seed=1, device="cuda")
    torch.cuda.synchronize()
    assert time.monotonic() - start < 10
    held, peak = torch.cuda.memory_allocated() - before, torch.cuda.max_memory_allocated() - before
    assert peak <= held + 1.1 * 4 * model.weights.embedding.numel()
