"""Many pieces at once, on the CPU and, where there is one, on a GPU: every byte where it belongs, no other touched."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from dualpath.engine.block_copy import Region, copy_pieces
from dualpath.engine.geometry import Pieces
from torch import Tensor

SIZE = 1 << 20
WAYS = [
    pytest.param("cpu", "cpu"),
    *(pytest.param(*way, marks=pytest.mark.gpu) for way in (("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cuda"))),
]


def memory(device: str, values: Tensor) -> Tensor:
    return values.pin_memory() if device == "cpu" and torch.cuda.is_available() else values.to(device)


def pieces(rng: random.Random, unit: int, largest: int) -> Pieces:
    """That do not overlap in the target."""
    found, at = [], rng.randrange(0, 64) * unit
    while at < SIZE:
        num = min(rng.randint(1, largest // unit) * unit, SIZE - at)
        found.append((at, rng.randrange(0, (SIZE - num) // unit + 1) * unit, num))
        at += num + rng.randrange(0, 64) * unit
    rng.shuffle(found)
    return np.array(found)


@pytest.mark.parametrize(("source_on", "target_on"), WAYS)
@pytest.mark.parametrize(("unit", "largest"), [(1, 1000), (4, 9000), (8, 51200), (8, 300_000), (3, 3000)])
def test_bytes_go_where_they_belong_and_nowhere_else(source_on: str, target_on: str, unit: int, largest: int) -> None:
    rng = random.Random(unit * largest)
    generator = torch.Generator().manual_seed(largest)
    values, before = (torch.randint(0, 256, (SIZE,), dtype=torch.uint8, generator=generator) for _ in range(2))
    source, target, expected = memory(source_on, values), memory(target_on, before.clone()), before.clone()
    cut = pieces(rng, unit, largest)
    for to_offset, from_offset, num in cut.tolist():
        expected[to_offset : to_offset + num] = values[from_offset : from_offset + num]
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # the tensors are made on another stream
    done = copy_pieces(Region(source), Region(target), cut)
    assert done.wait() == cut[:, 2].sum()
    assert torch.equal(target.cpu(), expected)


def test_nothing_to_copy_is_no_mistake() -> None:
    region = torch.zeros(8, dtype=torch.uint8)
    assert copy_pieces(Region(region), Region(region), np.zeros((0, 3), np.int64)).wait() == 0


@pytest.mark.gpu
def test_what_lies_outside_a_region_is_not_touched() -> None:
    source = torch.zeros(64, dtype=torch.uint8, pin_memory=True)
    target = torch.zeros(64, dtype=torch.uint8, device="cuda")
    with pytest.raises(AssertionError, match="within the target"):
        copy_pieces(Region(source), Region(target), np.array([[32, 0, 40]]))
