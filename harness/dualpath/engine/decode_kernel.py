"""Attention of one new token of each sequence over its paged KV cache, on a GPU.

A sequence's context is cut into splits, so that few sequences occupy the whole GPU too: one launch attends within each
split, a second one joins them. Keys and values are read once, straight from their pages. What decides is read from
memory (pages, lengths), so both launches can be part of a CUDA graph.
"""

from __future__ import annotations

import math

import torch
import triton  # type: ignore[import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, unused-ignore]
from torch import Tensor

from dualpath.core.model_shape import ModelShape

_PROGRAMS = 512  # a launch has about so many, whatever the batch: a few for each multiprocessor
_MOST_SPLITS = 64
_TOKENS, _WARPS, _STAGES = 64, 4, 3  # of a step within a split; measured on an H200 (bench/gpu_model.py)
_LOG2_E = math.log2(math.e)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _attend(  # type: ignore[no-untyped-def]
    queries,
    memory,
    pages,
    positions,
    mixed,
    sums,
    scale,
    num_splits,
    pages_stride,
    HEADS: tl.constexpr,
    GROUP_HEADS: tl.constexpr,
    MAIN: tl.constexpr,
    REST: tl.constexpr,
    VALUE: tl.constexpr,
    ENTRY: tl.constexpr,
    VALUES_AT: tl.constexpr,
    SHARED: tl.constexpr,
    PAGE_TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    MAIN_WIDTH: tl.constexpr,
    REST_WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One split of one sequence for the query heads that share a KV head, or some of them.

    A key is MAIN elements and REST more behind them (latent attention: latent, then rotary); with SHARED the MAIN
    elements are the value, too. Widths are powers of two that hold them.
    """
    sequence, split = tl.program_id(0), tl.program_id(2)
    row_blocks: tl.constexpr = (GROUP_HEADS + ROWS - 1) // ROWS
    group, row_block = tl.program_id(1) // row_blocks, tl.program_id(1) % row_blocks
    rows = row_block * ROWS + tl.arange(0, ROWS)
    heads = group * GROUP_HEADS + rows
    is_row = rows < GROUP_HEADS
    length = tl.load(positions + sequence).to(tl.int32) + 1
    steps = (length + TOKENS - 1) // TOKENS
    first = steps * split // num_splits * TOKENS
    end = tl.minimum(steps * (split + 1) // num_splits * TOKENS, length)

    main, rest, value = tl.arange(0, MAIN_WIDTH), tl.arange(0, REST_WIDTH), tl.arange(0, VALUE_WIDTH)
    own = queries + (sequence * HEADS + heads[:, None]) * (MAIN + REST)
    q = tl.load(own + main[None], mask=is_row[:, None] & (main[None] < MAIN), other=0.0)
    q_rest = q
    if REST:
        q_rest = tl.load(own + MAIN + rest[None], mask=is_row[:, None] & (rest[None] < REST), other=0.0)
    most = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    sum_values = tl.zeros([ROWS, VALUE_WIDTH], tl.float32)
    keys_at = group * (MAIN + REST)
    values_at = VALUES_AT + group * VALUE
    for start in range(first, end, TOKENS):
        tokens = start + tl.arange(0, TOKENS)
        is_token = tokens < end
        page = tl.load(pages + sequence * pages_stride + tokens // PAGE_TOKENS, mask=is_token, other=0)
        entries = memory + (page.to(tl.int64) * PAGE_TOKENS + tokens % PAGE_TOKENS) * ENTRY
        keys = tl.load(entries[:, None] + keys_at + main[None], mask=is_token[:, None] & (main[None] < MAIN), other=0.0)
        scores = tl.dot(q, tl.trans(keys), input_precision=PRECISION)
        if REST:
            keys_rest = tl.load(
                entries[:, None] + MAIN + rest[None], mask=is_token[:, None] & (rest[None] < REST), other=0.0
            )
            scores += tl.dot(q_rest, tl.trans(keys_rest), input_precision=PRECISION)
        scores = tl.where(is_token[None], scores * scale, float("-inf"))
        higher = tl.maximum(most, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(most - higher)
        most = higher
        total = total * shrink + tl.sum(weights, 1)
        if SHARED:
            values = keys
        else:
            values = tl.load(
                entries[:, None] + values_at + value[None], mask=is_token[:, None] & (value[None] < VALUE), other=0.0
            )
        sum_values = sum_values * shrink[:, None] + tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
    at = (sequence * HEADS + heads) * num_splits + split
    log = most + tl.log2(tl.where(total > 0, total, 1.0))
    tl.store(sums + at, log, mask=is_row)  # -inf where a split has no token
    if first < end:
        result = sum_values / total[:, None]
        tl.store(mixed + at[:, None] * VALUE + value[None], result, mask=is_row[:, None] & (value[None] < VALUE))


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _join(  # type: ignore[no-untyped-def]
    mixed, sums, out, num_splits, VALUE: tl.constexpr, VALUE_WIDTH: tl.constexpr, SPLITS: tl.constexpr
):
    """One head of one sequence: splits weighted by what their softmax summed up to (base 2)."""
    head = tl.program_id(0)
    value, splits = tl.arange(0, VALUE_WIDTH), tl.arange(0, SPLITS)
    logs = tl.load(sums + head * num_splits + splits, mask=splits < num_splits, other=float("-inf"))
    weights = tl.exp2(logs - tl.max(logs, 0))
    parts = tl.load(
        mixed + (head * num_splits + splits[:, None]) * VALUE + value[None],
        mask=(logs > float("-inf"))[:, None] & (value[None] < VALUE),
        other=0.0,
    )
    joined = tl.sum(parts * weights[:, None], 0) / tl.sum(weights, 0)
    tl.store(out + head * VALUE + value, joined.to(out.dtype.element_ty), mask=value < VALUE)


def attend_pages(
    shape: ModelShape, queries: Tensor, memory: Tensor, pages: Tensor, positions: Tensor, scale: float
) -> Tensor:
    """Attention of each sequence's token at `positions` over itself and all before it.

    queries: [b, H, D], contiguous; memory: one layer's pages [blocks, block tokens, E]; pages: [b, p] int32, the pages
    of each sequence in order; positions: [b] int64. Returns [b, H, value dim].
    """
    num, heads, dim = queries.shape
    is_latent = shape.attention == "mla"
    groups = 1 if is_latent else shape.kv_heads
    main, rest = (shape.latent_dim, shape.rope_dim) if is_latent else (dim, 0)
    value = shape.latent_dim if is_latent else dim
    group_heads = heads // groups
    rows = min(64, max(16, triton.next_power_of_2(group_heads))) if not is_latent else 16
    row_blocks = -(-group_heads // rows)
    num_splits = min(_MOST_SPLITS, max(1, _PROGRAMS // (num * groups * row_blocks)))
    mixed = torch.empty(num, heads, num_splits, value, dtype=torch.float32, device=queries.device)
    sums = torch.empty(num, heads, num_splits, dtype=torch.float32, device=queries.device)
    out = torch.empty(num, heads, value, dtype=queries.dtype, device=queries.device)
    value_width = _width(value)
    _attend[(num, groups * row_blocks, num_splits)](
        queries,
        memory,
        pages,
        positions,
        mixed,
        sums,
        scale * _LOG2_E,
        num_splits,
        pages.stride(0),
        HEADS=heads,
        GROUP_HEADS=group_heads,
        MAIN=main,
        REST=rest,
        VALUE=value,
        ENTRY=memory.shape[2],
        VALUES_AT=groups * dim,
        SHARED=is_latent,
        PAGE_TOKENS=memory.shape[1],
        ROWS=rows,
        MAIN_WIDTH=_width(main),
        REST_WIDTH=_width(rest),
        VALUE_WIDTH=value_width,
        TOKENS=_TOKENS if main <= 256 else _TOKENS // 2,
        PRECISION="ieee" if queries.dtype == torch.float32 else "tf32",
        num_warps=_WARPS,
        num_stages=2 if is_latent else _STAGES,
    )
    _join[(num * heads,)](
        mixed,
        sums,
        out,
        num_splits,
        VALUE=value,
        VALUE_WIDTH=value_width,
        SPLITS=triton.next_power_of_2(num_splits),
        num_warps=4,
    )
    return out


def _width(num: int) -> int:
    """Elements of a tile's side that holds so many."""
    width: int = triton.next_power_of_2(max(16, num))
    return width
