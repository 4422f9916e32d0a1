"""The paged kernel beside plain attention over the same tokens in a row; without a GPU, in Triton's interpreter."""

from __future__ import annotations

import os
import sys

import pytest
import torch

if not torch.cuda.is_available():
    if "triton" in sys.modules:
        pytest.skip(
            "Triton was imported before it could be told to interpret; run this file alone", allow_module_level=True
        )
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="Triton comes with torch where there is a GPU; elsewhere: pip install triton")

from dataclasses import replace

from dualpath.core.known_models import MODELS
from dualpath.core.model_shape import ModelShape
from dualpath.engine.decode_kernel import attend_pages
from dualpath.engine.models.model import Model
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALF = torch.bfloat16 if DEVICE == "cuda" else torch.float16  # the interpreter's products know no bfloat16
BLOCK_TOKENS, POSITIONS = 4, (0, 17, 66)
SHAPES = {
    "tiny-gqa": MODELS["tiny-gqa"],
    "cpu-gqa": MODELS["cpu-gqa"],
    "seven heads to a group": replace(MODELS["tiny-gqa"], heads=14, kv_heads=2, head_dim=16),
    "tiny-mla": MODELS["tiny-mla"],
    "cpu-mla": MODELS["cpu-mla"],
    "forty heads on one latent": replace(MODELS["tiny-mla"], heads=40),
}


def drawn(shape: ModelShape) -> tuple[Tensor, Tensor, Tensor]:
    """queries [b, H, D], memory [blocks, block tokens, E], pages [b, p]"""
    generator = torch.Generator().manual_seed(shape.heads)
    num, most = len(POSITIONS), max(POSITIONS) // BLOCK_TOKENS + 1
    dim = shape.latent_dim + shape.rope_dim if shape.attention == "mla" else shape.head_dim
    memory = torch.randn(num * most + 3, BLOCK_TOKENS, shape.kv_elements, generator=generator)
    pages = torch.randperm(len(memory), generator=generator)[: num * most].view(num, most).to(torch.int32)
    return torch.randn(num, shape.heads, dim, generator=generator), memory, pages


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (HALF, 2e-2)])
def test_it_is_attention_over_the_pages_in_order(name: str, dtype: torch.dtype, bound: float) -> None:
    shape = SHAPES[name]
    queries, memory, pages = (each.to(DEVICE) for each in drawn(shape))
    queries, memory = queries.to(dtype), memory.to(dtype)
    scale = 1 / shape.query_dim**0.5
    positions = torch.tensor(POSITIONS, device=DEVICE)
    found = attend_pages(shape, queries, memory, pages, positions, scale)
    model = Model(shape)
    for row, position in enumerate(POSITIONS):
        context = memory[pages[row].long()].flatten(0, 1)[: position + 1].double()
        keys, values = model.keys_values(context)
        heads = queries[row].double().view(len(keys), -1, queries.shape[2])
        weights = (heads @ keys.transpose(1, 2) * scale).softmax(2)
        expected = (weights @ values).flatten(0, 1)
        assert (found[row] - expected).abs().max() <= bound
