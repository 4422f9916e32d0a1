"""The model against plain formulas of its two kinds of attention."""

from __future__ import annotations

import math

import pytest
import torch
from dualpath.core.known_models import MODELS
from dualpath.engine.models.model import Model


@pytest.mark.parametrize("name", ["tiny-gqa", "tiny-mla", "tiny-dsa"])
def test_a_cached_context_gives_what_computing_it_all_gives(name: str) -> None:
    model = Model(MODELS[name], seed=1)
    hidden = torch.randn(30, model.shape.hidden, generator=torch.Generator().manual_seed(2))
    queries, entries = model.project(0, hidden, model.rotation(torch.arange(30)))
    whole = model.attend(0, queries, entries, 0)
    part = model.attend(0, queries.rows(21, 30), entries, 21)
    one = model.attend(0, queries.rows(29, 30), entries, 29)
    torch.testing.assert_close(part, whole[21:], rtol=0, atol=1e-5)
    torch.testing.assert_close(one, whole[29:], rtol=0, atol=1e-5)


def test_grouped_query_attention_shares_key_heads_among_query_heads() -> None:
    model = Model(MODELS["tiny-gqa"], seed=1)
    shape = model.shape
    hidden = torch.randn(9, shape.hidden, generator=torch.Generator().manual_seed(2))
    queries, entries = model.project(1, hidden, model.rotation(torch.arange(9)))
    keys, values = (half.view(9, shape.kv_heads, shape.head_dim) for half in entries.chunk(2, dim=1))
    mixed = torch.zeros(9, shape.heads, shape.head_dim)
    for head in range(shape.heads):
        shared = head * shape.kv_heads // shape.heads
        scores = queries.heads[:, head] @ keys[:, shared].T / math.sqrt(shape.head_dim)
        scores = scores.masked_fill(~torch.ones(9, 9, dtype=torch.bool).tril(), -math.inf)
        mixed[:, head] = scores.softmax(dim=1) @ values[:, shared]
    torch.testing.assert_close(model.attend(1, queries, entries, 0), model.output(1, mixed), rtol=0, atol=1e-5)


def test_latent_attention_in_latent_space_equals_attention_over_expanded_keys_and_values() -> None:
    model = Model(MODELS["tiny-mla"], seed=1)
    shape, weights = model.shape, model.layers[0]
    assert weights.key_up is not None
    assert weights.value_up is not None
    hidden = torch.randn(9, shape.hidden, generator=torch.Generator().manual_seed(2))
    queries, entries = model.project(0, hidden, model.rotation(torch.arange(9)))
    latent, rotary_key = entries[:, : shape.latent_dim], entries[:, shape.latent_dim :]
    projected = torch.nn.functional.rms_norm(hidden, (shape.hidden,), eps=1e-6) @ weights.project
    plain = projected[:, : -shape.kv_elements].view(9, shape.heads, -1)
    attended = []
    for head in range(shape.heads):
        expanded_keys = latent @ weights.key_up[head].T  # [9, head_dim]
        scores = plain[:, head, : shape.head_dim] @ expanded_keys.T
        scores = scores + queries.heads[:, head, shape.latent_dim :] @ rotary_key.T
        scores = (scores * model.scale).masked_fill(~torch.ones(9, 9, dtype=torch.bool).tril(), -math.inf)
        attended.append(scores.softmax(dim=1) @ (latent @ weights.value_up[head]))
    expected = torch.cat(attended, dim=1) @ weights.output
    torch.testing.assert_close(model.attend(0, queries, entries, 0), expected, rtol=0, atol=1e-4)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, again, other = (Model(MODELS["tiny-gqa"], seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first.weights.head, again.weights.head)
    assert not torch.equal(first.weights.head, other.weights.head)
