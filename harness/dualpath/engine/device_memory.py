"""Memory of a device, as a NIC may or may not be given it: a dma-buf (GPUDirect), or staging through pinned memory."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading

import torch
from torch import Tensor

from dualpath.core.errors import WorkerError
from dualpath.engine.block_copy import Region, copy_pieces
from dualpath.engine.geometry import Pieces

_DMA_BUF_FD = 1  # CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD


class NoDmaBuf(WorkerError):
    """The driver gives no dma-buf of a region; says why."""


class DmaBuf:
    """A region of CUDA memory as a file descriptor that a NIC's driver can import."""

    def __init__(self, region: Tensor) -> None:
        """Raises NoDmaBuf."""
        if region.device.type != "cuda":
            raise NoDmaBuf(f"memory of {region.device} has none")
        try:
            driver = ctypes.CDLL("libcuda.so.1")
            export = driver.cuMemGetHandleForAddressRange
        except (OSError, AttributeError) as error:
            raise NoDmaBuf(f"the CUDA driver cannot export memory: {error}") from None
        first = region.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
        self.offset = region.data_ptr() - first
        num_bytes = -(-(self.offset + region.numel()) // mmap.PAGESIZE) * mmap.PAGESIZE
        fd = ctypes.c_int(-1)
        status = export(
            ctypes.byref(fd), ctypes.c_uint64(first), ctypes.c_size_t(num_bytes), _DMA_BUF_FD, ctypes.c_ulonglong(0)
        )
        if status:
            raise NoDmaBuf(f"the CUDA driver exports no memory here (status {status})")
        self.fd = fd.value

    def close(self) -> None:
        os.close(self.fd)


class Mirror:
    """Pinned host memory as large as a region, byte for byte: what the NIC reaches in its place. Every byte is moved
    once more, by the device's copy engine; how many is counted."""

    def __init__(self, region: Tensor) -> None:
        self._region = region
        self.pinned = torch.empty(region.numel(), dtype=torch.uint8, pin_memory=region.device.type == "cuda")
        self.staged_bytes = 0
        self._counting = threading.Lock()

    def fill(self, pieces: Pieces) -> None:
        """Device to host, where the pieces are local."""
        self._copy(self._region, self.pinned, pieces)

    def empty(self, pieces: Pieces) -> None:
        """Host to device."""
        self._copy(self.pinned, self._region, pieces)

    def _copy(self, source: Tensor, target: Tensor, pieces: Pieces) -> None:
        moved = copy_pieces(Region(source), Region(target), pieces[:, [0, 0, 2]]).wait()
        with self._counting:
            self.staged_bytes += moved
