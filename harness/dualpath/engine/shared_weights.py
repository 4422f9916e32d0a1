"""One copy of a model's weights for all engines of a GPU: the first has them, the others map its memory (CUDA IPC).

What they must know to do so is written to memory they share, as msgpack: where each tensor lies, never code.
"""

from __future__ import annotations

import mmap
import os
import select
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import msgspec
import torch
from torch import Tensor

from dualpath.core.errors import WorkerError
from dualpath.engine.messages import WeightsShare
from dualpath.engine.models.weights import ExpertWeights, IndexerWeights, LayerWeights, Weights

_BOARD_BYTES = 64 << 20  # of address space; a tensor takes some 200
_PARENT_CHECK_MS = 500
_TYPES = {each.__name__: each for each in (Weights, LayerWeights, IndexerWeights, ExpertWeights)}
_DTYPES = {str(each): each for each in (torch.float32, torch.bfloat16, torch.float16)}


class _Place(msgspec.Struct, frozen=True, tag=True):
    """Where a tensor lies in another process's GPU memory, as torch describes it."""

    dtype: str
    shape: list[int]
    stride: list[int]
    offset: int
    storage: list[Any]  # of ints, bytes and truth values


class _Parts(msgspec.Struct, frozen=True, tag=True):
    kind: str  # a dataclass of _TYPES; empty: a list
    parts: list[_Place | _Parts | None]


def new_board(others: int) -> WeightsShare:
    """What the first of some engines says to the others."""
    fd = os.memfd_create("dualpath-weights")
    os.ftruncate(fd, _BOARD_BYTES)
    return WeightsShare(fd, os.eventfd(0, os.EFD_SEMAPHORE), others)


def shared_weights(share: WeightsShare | None, parent_pid: int, load: Callable[[], Weights]) -> Weights:
    """Load them where this engine is the first of its GPU or the only one; else wait for the first. Raises WorkerError
    where there is nobody left to wait for."""
    if share is None:
        return load()
    with mmap.mmap(share.board_fd, _BOARD_BYTES) as board:
        if share.others:
            weights = load()
            torch.cuda.synchronize()
            text = msgspec.msgpack.encode(_described(weights))
            assert len(text) < _BOARD_BYTES - 8, "room for a description"
            board[:8] = len(text).to_bytes(8, "little")
            board[8 : 8 + len(text)] = text
            os.eventfd_write(share.ready_fd, share.others)
            return weights
        _wait(share.ready_fd, parent_pid)
        num_bytes = int.from_bytes(board[:8], "little")
        found: Weights = _mapped(msgspec.msgpack.decode(board[8 : 8 + num_bytes], type=_Parts))
        return found


def _wait(ready_fd: int, parent_pid: int) -> None:
    poll = select.poll()
    poll.register(ready_fd, select.POLLIN)
    while not poll.poll(_PARENT_CHECK_MS):
        if os.getppid() != parent_pid:
            raise WorkerError("who started this engine is gone, and so is the engine that has the weights")
    os.eventfd_read(ready_fd)


def _described(value: Any) -> _Place | _Parts | None:
    if value is None:
        return None
    if isinstance(value, Tensor):
        storage: Any = value.untyped_storage()
        _, *rest = storage._share_cuda_()  # the device is the only one that these processes see
        return _Place(str(value.dtype), list(value.shape), list(value.stride()), int(value.storage_offset()), rest)
    if isinstance(value, list):
        return _Parts("", [_described(part) for part in value])
    return _Parts(type(value).__name__, [_described(getattr(value, field.name)) for field in fields(value)])


def _mapped(value: _Place | _Parts | None) -> Any:
    match value:
        case _Place():
            storage: Any = torch.UntypedStorage
            there = storage._new_shared_cuda(torch.cuda.current_device(), *value.storage)
            empty = torch.empty(0, dtype=_DTYPES[value.dtype], device="cuda")
            return empty.set_(there, value.offset, value.shape, value.stride)
        case _Parts(kind=""):
            return [_mapped(part) for part in value.parts]
        case _Parts():
            return _TYPES[value.kind](*map(_mapped, value.parts))
        case None:
            return None
