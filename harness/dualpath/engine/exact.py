"""Batch-invariant arithmetic: a token's KV has the same bits whether it was computed in a cold prefill, after a
cache hit, in any chunk, or in decode.

Matrix kernels may sum in another order when a matrix has another number of rows. So here every product has one shape:
tokens are computed in tiles of `tile` rows aligned to absolute positions, a token always in the same row of its
tile (absent rows are zero), over a context padded to whole tiles. What a token selects of its context and which
experts it goes to follow from its own row. Slow, for correctness runs only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dualpath.engine.models import indexer
from dualpath.engine.models.model import Model
from dualpath.engine.models.queries import Queries


def forward_tile(
    model: Model,
    token_ids: Tensor,
    first_position: int,
    tile: int,
    exchange: Callable[[int, Tensor], Tensor],
) -> Tensor:
    """Run all layers over new tokens of one tile.

    token_ids: [n] at positions first_position .. + n, all inside one tile. exchange(layer, entries [n, E]) stores the
    new entries and returns the context [c, E] padded to whole tiles. Returns hidden states [n, hidden].
    """
    rows = TileRows(first_position, len(token_ids), tile)
    x = rows.spread(model.embed(token_ids))
    for layer in range(model.shape.layers):
        x = layer_tile(model, layer, x, rows, exchange)
    return rows.take(x)


class TileRows:
    """Which rows of an aligned tile hold real tokens."""

    def __init__(self, first_position: int, num: int, tile: int) -> None:
        self.tile = tile
        self.start = first_position // tile * tile
        self.first = first_position - self.start
        self.num = num
        assert self.first + num <= tile, "tokens of one tile only"

    def spread(self, values: Tensor) -> Tensor:
        """[n, ...] -> [tile, ...], zero elsewhere."""
        spread = torch.zeros(self.tile, *values.shape[1:], dtype=values.dtype, device=values.device)
        spread[self.first : self.first + self.num] = values
        return spread

    def take(self, values: Tensor) -> Tensor:
        return values[self.first : self.first + self.num]


def layer_tile(
    model: Model, layer: int, x: Tensor, rows: TileRows, exchange: Callable[[int, Tensor], Tensor]
) -> Tensor:
    """One layer over one tile. x: [tile, hidden]."""
    positions = torch.arange(rows.start, rows.start + rows.tile, device=x.device)
    queries, entries = model.project(layer, x, model.rotation(positions))
    context = exchange(layer, rows.take(entries)).clone()  # fresh memory: kernels may also depend on alignment
    assert len(context) == rows.start + rows.tile, "context padded to whole tiles"
    x = x + _attend_tile(model, layer, queries, context, positions)
    return x + model.feed_forward(layer, x, exact=True)


def _attend_tile(model: Model, layer: int, queries: Queries, context: Tensor, positions: Tensor) -> Tensor:
    keys, values = model.keys_values(context)
    groups, heads = len(keys), queries.heads.shape[1]
    visible = torch.arange(len(context), device=context.device)[None] <= positions[:, None]  # [tile, c]
    if model.shape.index_heads:
        scores = _index_scores_tile(queries, model.index_keys(context))
        visible = indexer.selected(scores, visible, model.shape.index_top_k)
    mixed = []
    for head in range(heads):
        group = head * groups // heads
        scores = (queries.heads[:, head].contiguous() @ keys[group].T.contiguous()) * model.scale
        weights = scores.masked_fill(~visible, float("-inf")).softmax(dim=1)
        mixed.append(weights @ values[group].contiguous())
    return model.output(layer, torch.stack(mixed, dim=1))


def _index_scores_tile(queries: Queries, keys: Tensor) -> Tensor:
    """As `indexer.scores`, head by head. keys: [c, index dim]; returns [tile, c] float32."""
    assert queries.index_heads is not None
    assert queries.index_weights is not None
    keys = keys.float().T.contiguous()
    total = torch.zeros(len(queries.heads), keys.shape[1], device=keys.device)
    for head in range(queries.index_heads.shape[1]):
        products = queries.index_heads[:, head].float().contiguous() @ keys
        total += products.relu() * queries.index_weights[:, head, None]
    return total


def recompute(model: Model, token_ids: Tensor, prompt_tokens: int, tile: int) -> tuple[Tensor, Tensor]:
    """Without any cache: KV of all tokens [layers, n, E], and the greedy choice after each token from the last
    prompt token on [n - prompt_tokens + 1], both on the CPU. The oracle that cached runs are compared with."""
    num = len(token_ids)
    padded = -(-num // tile) * tile
    token_ids = token_ids.to(model.device)
    cache = torch.zeros(model.shape.layers, padded, model.shape.kv_elements, dtype=model.dtype, device=model.device)
    hidden = []
    for start in range(0, num, tile):
        end = min(start + tile, num)

        def exchange(layer: int, entries: Tensor, start: int = start, end: int = end) -> Tensor:
            cache[layer, start:end] = entries
            return cache[layer, : start + tile]

        hidden.append(forward_tile(model, token_ids[start:end], start, tile, exchange))
    states = torch.cat(hidden)[prompt_tokens - 1 :]
    choices = torch.cat(
        [choose_exact(model, state, position, tile) for position, state in enumerate(states, start=prompt_tokens - 1)]
    )
    return cache[:, :num].cpu(), choices.cpu()


def choose_exact(model: Model, state: Tensor, position: int, tile: int) -> Tensor:
    """Greedy token [1] after the token at `position` whose hidden state is [hidden]; one shape, as everywhere here."""
    rows = TileRows(position, 1, tile)
    return rows.take(model.next_tokens(rows.spread(state[None])))
