"""What the indexer selects, against the plain formula, and what attention makes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from dualpath.core.known_models import MODELS
from dualpath.engine.models import indexer
from dualpath.engine.models.model import Model
from dualpath.engine.models.queries import Queries
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor


@given(st.lists(st.lists(st.integers(-3, 3), min_size=9, max_size=9), min_size=1, max_size=4), st.integers(1, 10))
def test_the_highest_scores_are_selected_and_of_equal_ones_the_first(rows: list[list[int]], top_k: int) -> None:
    scores = torch.tensor(rows, dtype=torch.float32)
    visible = torch.ones(scores.shape, dtype=torch.bool).tril(9 - len(rows))
    found = indexer.selected(scores, visible, top_k)
    for number, row in enumerate(rows):
        seen = range(9 - len(rows) + number + 1)
        best = sorted(seen, key=lambda token: (-row[token], token))[:top_k]
        assert found[number].nonzero()[:, 0].tolist() == sorted(best)


def test_what_a_token_selects_does_not_depend_on_what_comes_after_it() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 5, (40, 40), generator=generator).float()  # many are equal
    visible = torch.ones(40, 40, dtype=torch.bool).tril()
    whole = indexer.selected(scores, visible, 12)
    for token in range(40):
        alone = indexer.selected(scores[token : token + 1, : token + 1], visible[token : token + 1, : token + 1], 12)
        assert torch.equal(alone[0], whole[token, : token + 1])
        assert whole[token].sum() == min(token + 1, 12)


def test_scores_are_the_weighted_sum_of_positive_products(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    heads, weights = torch.randn(7, 3, 8, generator=generator), torch.randn(7, 3, generator=generator)
    keys = torch.randn(11, 8, generator=generator)
    expected = (torch.einsum("nhd,cd->nhc", heads, keys).clamp(min=0) * weights[:, :, None]).sum(dim=1)
    monkeypatch.setattr(indexer, "_MOST_PRODUCTS", 2 * 3 * 11)  # two tokens at once
    found = indexer.scores(Queries(heads, heads, weights), keys)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_attention_reads_what_is_selected_alone() -> None:
    """Entries that are not selected may be anything."""
    model = Model(replace(MODELS["tiny-dsa"], index_top_k=5), seed=1)
    hidden = torch.randn(30, model.shape.hidden, generator=torch.Generator().manual_seed(2))
    queries, entries = model.project(1, hidden, model.rotation(torch.arange(30)))
    scores = indexer.scores(queries, model.index_keys(entries))
    selected = indexer.selected(scores, torch.ones(30, 30, dtype=torch.bool).tril(), 5)
    whole = model.attend(1, queries, entries, 0)

    def others_changed(token: int) -> Tensor:
        changed = entries.clone()
        changed[~selected[token], : -model.shape.index_dim] += 100.0
        return model.attend(1, queries.rows(token, token + 1), changed[: token + 1], token)[0]

    for token in range(30):
        torch.testing.assert_close(others_changed(token), whole[token], rtol=0, atol=1e-5)
