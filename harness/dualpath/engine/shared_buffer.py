"""A buffer that the processes of one host share."""

from __future__ import annotations

import mmap
from typing import Any

import torch
from torch import Tensor

from dualpath.core.errors import WorkerError
from dualpath.engine.huge_pages import in_huge_pages


class SharedBuffer:
    """Anonymous shared memory of one host. It has no name: it goes when the last process that maps it goes,
    whatever ends that process."""

    def __init__(self, fd: int, size_bytes: int) -> None:
        self.fd = fd
        self.size_bytes = size_bytes
        self._map = in_huge_pages(mmap.mmap(fd, size_bytes))
        self.view = memoryview(self._map)
        self.tensor: Tensor = torch.frombuffer(self._map, dtype=torch.uint8)

    def pin(self) -> None:
        """Let the GPU reach it. Raises WorkerError."""
        runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        status = runtime.cudaHostRegister(self.tensor.data_ptr(), self.size_bytes, 0)
        if int(status):
            raise WorkerError(
                f"{self.size_bytes:,} bytes of a buffer cannot be pinned for the GPU ({status}); lower prefill_buffer "
                "or decode_buffer of the cluster file"
            )
