"""Routing and experts against plain formulas, and the two ways through experts against each other."""

from __future__ import annotations

from dataclasses import replace

import torch
from dualpath.core.known_models import MODELS
from dualpath.core.model_shape import ModelShape
from dualpath.engine.models.feed_forward import experts_grouped, experts_in_turn, gated
from dualpath.engine.models.router import route
from dualpath.engine.models.weights import ExpertWeights
from hypothesis import given, settings
from hypothesis import strategies as st


def drawn(experts: int, hidden: int, mlp: int, seed: int) -> ExpertWeights:
    generator = torch.Generator().manual_seed(seed)

    def draw(*sizes: int) -> torch.Tensor:
        return torch.randn(sizes, generator=generator) * 0.3

    return ExpertWeights(
        draw(hidden, experts), draw(experts), draw(experts, hidden, 2 * mlp), draw(experts, mlp, hidden)
    )


def shape(experts: int, per_token: int, groups: int, of_groups: int) -> ModelShape:
    return replace(
        MODELS["tiny-dsa"],
        experts=experts,
        experts_per_token=per_token,
        expert_groups=groups,
        groups_per_token=of_groups,
    )


@settings(max_examples=60)
@given(
    st.integers(1, 40), st.sampled_from([1, 2, 4]), st.integers(2, 5), st.integers(0, 100), st.data()
)  # experts that no token goes to, and that all go to, are among them
def test_both_ways_through_experts_agree(num: int, groups: int, per_group: int, seed: int, data: st.DataObject) -> None:
    of_groups = data.draw(st.integers(1, groups))
    per_token = data.draw(st.integers(1, of_groups * per_group))
    weights = drawn(groups * per_group, 16, 8, seed)
    x = torch.randn(num, 16, generator=torch.Generator().manual_seed(seed + 1))
    experts, shares = route(shape(groups * per_group, per_token, groups, of_groups), weights, x)
    plain = experts_in_turn(weights, x, experts, shares)
    torch.testing.assert_close(experts_grouped(weights, x, experts, shares), plain, rtol=1e-5, atol=1e-5)
    one_by_one = [
        sum(
            share * gated(token[None], weights.gate_up[expert], weights.down[expert])[0]
            for expert, share in zip(chosen.tolist(), its, strict=True)
        )
        for token, chosen, its in zip(x, experts, shares, strict=True)
    ]
    torch.testing.assert_close(plain, torch.stack(one_by_one), rtol=1e-5, atol=1e-5)  # type: ignore[arg-type]


def test_a_token_stays_in_the_groups_whose_two_best_experts_score_highest() -> None:
    weights = drawn(8, 16, 8, 0)
    x = torch.randn(50, 16, generator=torch.Generator().manual_seed(1))
    experts, shares = route(shape(8, 3, 4, 2), weights, x)
    for token, chosen, its in zip(x, experts.tolist(), shares, strict=True):
        affinity = (token @ weights.router).sigmoid()
        scores = (affinity + weights.correction).tolist()
        groups = sorted(range(4), key=lambda group: -scores[2 * group] - scores[2 * group + 1])[:2]
        allowed = [2 * group + each for group in groups for each in (0, 1)]
        assert set(chosen) == set(sorted(allowed, key=lambda expert: -scores[expert])[:3])
        torch.testing.assert_close(its, affinity[chosen] / affinity[chosen].sum() * 2.5)  # not of corrected scores
