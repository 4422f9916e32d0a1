"""A buffer that the processes of one host share."""

from __future__ import annotations

import mmap

import torch
from torch import Tensor

from dualpath.engine.pages import in_huge_pages


class SharedBuffer:
    """Anonymous shared memory of one host. It has no name: it goes when the last process that maps it goes,
    whatever ends that process."""

    def __init__(self, fd: int, size_bytes: int) -> None:
        self.fd = fd
        self.size_bytes = size_bytes
        self._map = in_huge_pages(mmap.mmap(fd, size_bytes))
        self.view = memoryview(self._map)
        self.tensor: Tensor = torch.frombuffer(self._map, dtype=torch.uint8)
