"""Host memory in whole pages, huge ones where the system has some: NICs and disks take memory by the page."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor

from dualpath.engine.huge_pages import in_huge_pages


def zeros(shape: Sequence[int], dtype: torch.dtype, device: str) -> Tensor:
    """As torch.zeros; on the CPU it begins with a page."""
    if device != "cpu":
        return torch.zeros(*shape, dtype=dtype, device=device)
    num_bytes = math.prod(shape) * dtype.itemsize
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(in_huge_pages(memory), dtype=dtype).view(*shape)
