"""Memory begins with a page and is zero."""

from __future__ import annotations

import mmap

import torch
from dualpath.engine.pages import zeros


def test_it_is_as_torch_zeros_but_aligned() -> None:
    for shape in ((1, 1), (3, 5, 7), (2, 1024, 64)):
        for dtype in (torch.float32, torch.bfloat16, torch.uint8):
            found = zeros(shape, dtype, "cpu")
            assert torch.equal(found, torch.zeros(*shape, dtype=dtype))
            assert found.data_ptr() % mmap.PAGESIZE == 0
            found.fill_(1)
            assert found.sum() > 0
