"""Many copies between a GPU and pinned memory by the GPU's copy engines, submitted in one call (CUDA 13).

They take no multiprocessor from what computes, another process's included, and move bytes both ways at once. But each
piece costs an engine a microsecond or so: below some size a kernel is faster (copy_kernel.py).
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
from torch import Tensor

from dualpath.core.errors import WorkerError
from dualpath.engine.geometry import Pieces

_IN_STREAM_ORDER = 1  # cudaMemcpySrcAccessOrderStream
_BESIDE_COMPUTE = 1  # cudaMemcpyFlagPreferOverlapWithCompute


class _Location(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int), ("id", ctypes.c_int))


class _Attributes(ctypes.Structure):
    _fields_ = (
        ("source_order", ctypes.c_int),
        ("source", _Location),
        ("target", _Location),
        ("flags", ctypes.c_uint),
    )


@cache
def _call() -> Any:
    """The runtime's function; None where it has none of this form."""
    try:
        return ctypes.CDLL("libcudart.so.13").cudaMemcpyBatchAsync
    except (OSError, AttributeError):
        return None


def is_there() -> bool:
    return _call() is not None


def submit(source: Tensor, target: Tensor, pieces: Pieces, stream: int) -> None:
    """Pieces as the target has them, the source is the remote one. stream: a CUDA stream, not the default one. Raises
    WorkerError."""
    targets, sources, sizes = (np.ascontiguousarray(column) for column in pieces.T)
    targets += target.data_ptr()
    sources += source.data_ptr()
    attributes, first = _Attributes(_IN_STREAM_ORDER, flags=_BESIDE_COMPUTE), ctypes.c_size_t(0)
    status = _call()(
        ctypes.c_void_p(targets.ctypes.data),
        ctypes.c_void_p(sources.ctypes.data),
        ctypes.c_void_p(sizes.ctypes.data),
        ctypes.c_size_t(len(pieces)),
        ctypes.byref(attributes),
        ctypes.byref(first),
        ctypes.c_size_t(1),
        ctypes.c_void_p(stream),
    )
    if status:
        raise WorkerError(f"the GPU's copy engines took no batch of {len(pieces)} copies (cudaError {status})")
