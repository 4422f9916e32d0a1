"""Copies of many pieces at once, between regions of this process: on the CPU one by one, with a GPU in one launch.

Each thread copies on a stream of its own, so what one thread loads overlaps what another computes. Who needs the bytes
waits for the completion; and who copies what was computed must know that it has been (Model.finish).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

_thread = threading.local()


class Done(NamedTuple):
    """Bytes that have moved already."""

    num_bytes: int

    def wait(self) -> int:
        return self.num_bytes


class Launched(NamedTuple):
    """Bytes that a GPU moves."""

    num_bytes: int
    event: Any

    def wait(self) -> int:
        self.event.synchronize()
        return self.num_bytes


def copy_pieces(source: Tensor, target: Tensor, pieces: Iterable[tuple[int, int, int]]) -> Done | Launched:
    """source, target: flat byte tensors; pieces: (offset in source, offset in target, bytes)."""
    pieces = list(pieces)
    if (
        pieces
        and (source.is_cuda or target.is_cuda)
        and all(each.is_cuda or each.is_pinned() for each in (source, target))
    ):
        return _launched(source, target, pieces)
    moved = 0
    for from_offset, to_offset, num_bytes in pieces:
        part = source[from_offset : from_offset + num_bytes]
        target[to_offset : to_offset + num_bytes].copy_(part)
        moved += len(part)
    return Done(moved)


def _launched(source: Tensor, target: Tensor, pieces: list[tuple[int, int, int]]) -> Launched:
    kernel = import_module("dualpath.engine.copy_kernel")  # Triton comes with torch where there is a GPU
    table = np.array(pieces, np.int64).reshape(-1, 3)
    unit = math.gcd(8, *np.unique(table).tolist(), source.data_ptr(), target.data_ptr())
    word_bytes = unit if unit in (8, 4) else 1
    num_bytes = int(table[:, 2].sum())
    for offsets, region, name in ((table[:, 0], source, "source"), (table[:, 1], target, "target")):
        assert offsets.min() >= 0, f"within the {name}"
        assert (offsets + table[:, 2]).max() <= region.numel(), f"within the {name}"
    table[:, 2] //= word_bytes
    with torch.cuda.stream(_stream()):
        on_device = torch.from_numpy(table).pin_memory().to("cuda", non_blocking=True)
        kernel.launch(on_device, source.data_ptr(), target.data_ptr(), len(pieces), word_bytes)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
    return Launched(num_bytes, event)


def _stream() -> Any:
    """This thread's."""
    if not hasattr(_thread, "stream"):
        _thread.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    return _thread.stream
