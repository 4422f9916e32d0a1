"""Copies of many pieces at once, between regions of this process: on the CPU one by one, with a GPU in one submission,
large pieces by its copy engines and small ones by a kernel.

Each thread copies on a stream of its own, so what one thread loads overlaps what another computes. Who needs the bytes
waits for the completion; and who copies what was computed must know that it has been (Model.recorded).
"""

from __future__ import annotations

import threading
from functools import cached_property
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dualpath.engine import batch_copy
from dualpath.engine.completion import Done
from dualpath.engine.geometry import Pieces

_thread = threading.local()
_TABLES = 8  # of one thread under way at once
_LAUNCH_PIECES = 1024  # of one launch
_ENGINES_BYTES = 64 << 10  # of a piece on average, from which copy engines are used


class Launched(NamedTuple):
    """Bytes that a GPU moves."""

    num_bytes: int
    event: Any

    def wait(self) -> int:
        self.event.synchronize()
        return self.num_bytes


class Region:
    """Memory that pieces are copied between."""

    def __init__(self, memory: Tensor) -> None:
        """memory: a flat byte tensor. Pinned before the first copy, or never."""
        self.memory = memory
        self.is_device = memory.is_cuda

    @cached_property
    def is_in_reach(self) -> bool:
        """Of a GPU. Asked once: the driver takes its time to answer."""
        return self.is_device or self.memory.is_pinned()


def copy_pieces(source: Region, target: Region, pieces: Pieces) -> Done | Launched:
    """pieces: as the target has them, the source is the remote one."""
    is_launched = (source.is_device or target.is_device) and source.is_in_reach and target.is_in_reach
    if is_launched and len(pieces):
        _check_inside(source, target, pieces)
        by_engines = batch_copy.is_there() and pieces[:, 2].sum() >= _ENGINES_BYTES * len(pieces)
        copied = copied_by_engines if by_engines else copied_by_kernel
        return copied(source.memory, target.memory, pieces)
    moved = 0
    for to_offset, from_offset, num_bytes in pieces.tolist():
        part = source.memory[from_offset : from_offset + num_bytes]
        target.memory[to_offset : to_offset + num_bytes].copy_(part)
        moved += len(part)
    return Done(moved)


def _check_inside(source: Region, target: Region, pieces: Pieces) -> None:
    sizes = pieces[:, 2]
    for offsets, region, name in ((pieces[:, 1], source, "source"), (pieces[:, 0], target, "target")):
        assert offsets.min() >= 0, f"within the {name}"
        assert (offsets + sizes).max() <= region.memory.numel(), f"within the {name}"


def copied_by_engines(source: Tensor, target: Tensor, pieces: Pieces) -> Launched:
    stream = _copy_stream().stream
    batch_copy.submit(source, target, pieces, stream.cuda_stream)
    return Launched(int(pieces[:, 2].sum()), stream.record_event())


def copied_by_kernel(source: Tensor, target: Tensor, pieces: Pieces) -> Launched:
    kernel = import_module("dualpath.engine.copy_kernel")  # Triton comes with torch where there is a GPU
    bits = int(np.bitwise_or.reduce(pieces, axis=None)) | source.data_ptr() | target.data_ptr()
    word_bytes = 1 if bits % 4 else 4 if bits % 8 else 8
    copies = _copy_stream()
    with torch.cuda.stream(copies.stream):
        for first in range(0, len(pieces), _LAUNCH_PIECES):  # the GPU is at work while the next ones are described
            part = pieces[first : first + _LAUNCH_PIECES].copy()
            part[:, 2] //= word_bytes
            table, event = copies.put(part)
            kernel.launch(table, source.data_ptr(), target.data_ptr(), len(part), word_bytes)
            event.record()
    return Launched(int(pieces[:, 2].sum()), event)  # of the last: a stream is in order


class _CopyStream:
    """One thread's stream, and tables of pieces on their way to the GPU. They are kept: to pin memory anew for each
    call would take as long as copying ten megabytes."""

    def __init__(self) -> None:
        self.stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._ring: list[tuple[Tensor, Tensor, Any]] = []  # pinned, on the GPU, done with
        self._next = 0

    def put(self, table: Pieces) -> tuple[Tensor, Any]:
        """On the GPU in the order of this stream; and an event, to be recorded when it is done with."""
        if len(self._ring) < _TABLES:
            self._ring.append(self._slot())
        place, self._next = self._next, (self._next + 1) % _TABLES
        pinned, on_device, last = self._ring[place]
        last.synchronize()
        event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._ring[place] = pinned, on_device, event
        pinned[: len(table)] = torch.from_numpy(table)
        on_device[: len(table)].copy_(pinned[: len(table)], non_blocking=True)
        return on_device, event

    def _slot(self) -> tuple[Tensor, Tensor, Any]:
        pinned = torch.empty(_LAUNCH_PIECES, 3, dtype=torch.int64, pin_memory=True)
        return pinned, torch.empty_like(pinned, device="cuda"), torch.cuda.Event()  # type: ignore[no-untyped-call]


def warm_up() -> None:
    """Compile what copies on a GPU: else the first copies of a run wait seconds for it."""
    host = torch.zeros(64, dtype=torch.uint8).pin_memory()
    pieces = np.array([[0, 0, 64]])
    for source, target in ((host, host.to("cuda")), (host.to("cuda"), host)):
        copied_by_kernel(source, target, pieces).wait()


def swapped(pieces: Pieces) -> Pieces:
    """The other way round: what was local is remote."""
    return pieces[:, [1, 0, 2]]


def _copy_stream() -> _CopyStream:
    """This thread's."""
    if not hasattr(_thread, "copies"):
        _thread.copies = _CopyStream()
    found: _CopyStream = _thread.copies
    return found
