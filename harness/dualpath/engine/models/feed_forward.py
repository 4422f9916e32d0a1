"""Feed-forward parts: a gated MLP, and experts of which each token uses a few (DeepSeek-V3, arXiv 2412.19437).

Experts come in two ways with one meaning. `experts_in_turn` is plain, and every product has as many rows as there are
tokens, so batch-invariant arithmetic can use it; it asks which experts were hit, which a GPU would have to wait for.
`experts_grouped` has no shape that depends on routing.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dualpath.engine.models.weights import ExpertWeights


def gated(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """[n, hidden] -> [n, hidden]"""
    gate, up = (x @ gate_up).chunk(2, dim=1)
    return (functional.silu(gate) * up) @ down


def experts_in_turn(weights: ExpertWeights, x: Tensor, experts: Tensor, shares: Tensor) -> Tensor:
    """All tokens through each expert that any of them was routed to; it counts for those that were.

    x: [n, hidden]; experts, shares: [n, k]; returns [n, hidden].
    """
    share_of = torch.zeros(len(x), len(weights.down), device=x.device).scatter_(1, experts, shares)
    total = torch.zeros(x.shape, device=x.device)
    for expert in sorted(set(experts.flatten().tolist())):
        computed = gated(x, weights.gate_up[expert], weights.down[expert])
        total += computed.float() * share_of[:, expert, None]
    return total.to(x.dtype)


def experts_grouped(weights: ExpertWeights, x: Tensor, experts: Tensor, shares: Tensor) -> Tensor:
    """Copies of tokens sorted by expert, so that each expert's are rows in a row of one grouped product.

    x: [n, hidden]; experts, shares: [n, k]; returns [n, hidden].
    """
    num, per_token = experts.shape
    flat = experts.flatten()
    order = flat.argsort(stable=True)
    bounds = torch.arange(len(weights.down), device=x.device)
    ends = torch.searchsorted(flat[order], bounds, right=True).to(torch.int32)
    gate, up = functional.grouped_mm(x[order // per_token], weights.gate_up, offs=ends).chunk(2, dim=1)
    computed = functional.grouped_mm(functional.silu(gate) * up, weights.down, offs=ends)
    back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=x.device))
    computed = computed[back].view(num, per_token, -1)
    return (computed.float() * shares[:, :, None]).sum(dim=1).to(x.dtype)
