"""Batch-invariant arithmetic gives the same bits however the tokens are divided."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from dualpath.core.known_models import MODELS
from dualpath.engine.exact import forward_tile, recompute
from dualpath.engine.models.model import Model
from hypothesis import given, settings
from hypothesis import strategies as st

_TILE, _TOKENS, _PROMPT = 16, 70, 50


# As the paper's DS 27B: an indexer, queries without a rank.
_NO_RANK = replace(MODELS["tiny-dsa"], name="tiny-dsa without query rank", query_rank=0)
_BF16 = replace(MODELS["tiny-dsa"], name="tiny-dsa in bf16", kv_dtype="bf16")
_SHAPES = {shape.name: shape for shape in (*MODELS.values(), _NO_RANK, _BF16)}


def _model_and_ids(name: str) -> tuple[Model, torch.Tensor]:
    shape = _SHAPES[name]
    return Model(shape, seed=3), torch.randint(0, shape.vocab, (_TOKENS,), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["tiny-gqa", "tiny-mla", "tiny-dsa", _NO_RANK.name, _BF16.name])
@settings(max_examples=15, deadline=None)
@given(cuts=st.sets(st.integers(1, _TOKENS - 1)))
def test_any_division_into_chunks_gives_the_bits_of_one_cold_prefill(name: str, cuts: set[int]) -> None:
    model, ids = _model_and_ids(name)
    whole, _ = recompute(model, ids, _PROMPT, _TILE)
    size = (model.shape.layers, 80, model.shape.kv_elements)
    cache = torch.full(size, 7.0, dtype=model.dtype)  # finite rubbish where nothing is yet
    borders = sorted(cuts | set(range(0, _TOKENS, _TILE)) | {_TOKENS})
    for first, end in itertools.pairwise(borders):

        def exchange(layer: int, entries: torch.Tensor, first: int = first, end: int = end) -> torch.Tensor:
            cache[layer, first:end] = entries
            return cache[layer, : first // _TILE * _TILE + _TILE]

        forward_tile(model, ids[first:end], first, _TILE, exchange)
    assert torch.equal(cache[:, :_TOKENS], whole)


@pytest.mark.parametrize("name", ["tiny-gqa", "tiny-mla", "tiny-dsa", _NO_RANK.name, "cpu-gqa", "cpu-mla"])
def test_fast_arithmetic_agrees_with_exact(name: str) -> None:
    model, ids = _model_and_ids(name)
    exact, choices = recompute(model, ids, _PROMPT, _TILE)
    hidden = model.embed(ids)
    entries = []
    for layer in range(model.shape.layers):
        queries, new = model.project(layer, hidden, model.rotation(torch.arange(_TOKENS)))
        entries.append(new)
        hidden = hidden + model.attend(layer, queries, new, 0)
        hidden = hidden + model.feed_forward(layer, hidden)
    assert (torch.stack(entries) - exact).abs().max() < 1e-4
    assert torch.equal(model.next_tokens(hidden)[_PROMPT - 1 :], choices)
