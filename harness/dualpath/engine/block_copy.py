"""Copies of many pieces at once, between regions of this process: on the CPU one by one, with a GPU in one launch.

Each thread copies on a stream of its own, so what one thread loads overlaps what another computes. Who needs the bytes
waits for the completion; and who copies what was computed must know that it has been (Model.finish).
"""

from __future__ import annotations

import threading
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dualpath.engine.geometry import Pieces

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


def copy_pieces(source: Tensor, target: Tensor, pieces: Pieces) -> Done | Launched:
    """source, target: flat byte tensors; pieces: as the target has them, the source is the remote one."""
    regions = (source, target)
    is_launched = any(each.is_cuda for each in regions) and all(each.is_cuda or each.is_pinned() for each in regions)
    if is_launched and len(pieces):
        return _launched(source, target, pieces)
    moved = 0
    for to_offset, from_offset, num_bytes in pieces.tolist():
        part = source[from_offset : from_offset + num_bytes]
        target[to_offset : to_offset + num_bytes].copy_(part)
        moved += len(part)
    return Done(moved)


def _launched(source: Tensor, target: Tensor, pieces: Pieces) -> Launched:
    kernel = import_module("dualpath.engine.copy_kernel")  # Triton comes with torch where there is a GPU
    sizes = pieces[:, 2]
    for offsets, region, name in ((pieces[:, 1], source, "source"), (pieces[:, 0], target, "target")):
        assert offsets.min() >= 0, f"within the {name}"
        assert (offsets + sizes).max() <= region.numel(), f"within the {name}"
    bits = int(np.bitwise_or.reduce(pieces, axis=None)) | source.data_ptr() | target.data_ptr()
    word_bytes = 1 if bits % 4 else 4 if bits % 8 else 8
    table = pieces.copy()
    table[:, 2] //= word_bytes
    with torch.cuda.stream(_stream()):
        on_device = torch.from_numpy(table).pin_memory().to("cuda", non_blocking=True)
        kernel.launch(on_device, source.data_ptr(), target.data_ptr(), len(pieces), word_bytes)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
    return Launched(int(sizes.sum()), event)


def warm_up() -> None:
    """Compile what copies on a GPU: else the first copies of a run wait seconds for it."""
    host = torch.zeros(64, dtype=torch.uint8).pin_memory()
    pieces = np.array([[0, 0, 64]])
    for source, target in ((host, host.to("cuda")), (host.to("cuda"), host)):
        copy_pieces(source, target, pieces).wait()


def swapped(pieces: Pieces) -> Pieces:
    """The other way round: what was local is remote."""
    return pieces[:, [1, 0, 2]]


def _stream() -> Any:
    """This thread's."""
    if not hasattr(_thread, "stream"):
        _thread.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    return _thread.stream
