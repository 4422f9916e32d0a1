"""Which experts a token goes to and what each weighs, as in DeepSeek-V3 (arXiv 2412.19437, section 2.1.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from dualpath.core.model_shape import ModelShape
from dualpath.engine.models.weights import ExpertWeights

_TINY = 1e-20  # no weights of zero are divided by zero


def route(shape: ModelShape, weights: ExpertWeights, x: Tensor) -> tuple[Tensor, Tensor]:
    """Experts [n, k] int64 and their weights [n, k] float32, of each token of x [n, hidden].

    Scores are corrected for the choice only. Experts come from the groups whose two best experts score highest.
    """
    affinity = (x.float() @ weights.router).sigmoid()
    scores = affinity + weights.correction
    if shape.expert_groups > 1:
        scores = scores.masked_fill(~_in_best_groups(shape, scores), float("-inf"))
    experts = scores.topk(shape.experts_per_token, dim=1).indices
    shares = affinity.gather(1, experts)
    if shape.normalised_routing:
        shares = shares / (shares.sum(dim=1, keepdim=True) + _TINY)
    return experts, shares * shape.routed_scaling


def _in_best_groups(shape: ModelShape, scores: Tensor) -> Tensor:
    """[n, N] -> [n, N] bool"""
    grouped = scores.view(len(scores), shape.expert_groups, -1)
    group_scores = grouped.topk(2, dim=2).values.sum(dim=2)
    best = group_scores.topk(shape.groups_per_token, dim=1).indices
    chosen = torch.zeros_like(group_scores, dtype=torch.bool).scatter_(1, best, True)
    return chosen[:, :, None].expand_as(grouped).reshape_as(scores)
