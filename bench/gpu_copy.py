"""Copying Layer Blocks between pinned host memory and a GPU: ways x block sizes, their rate and what submitting costs.
Prints raw rows as JSON; needs a GPU, torch with Triton, and nothing else.

    PYTHONPATH=harness python bench/gpu_copy.py > rows.jsonl

    large      one copy of as many bytes: what the link gives
    calls      one copy call per block (torch's copy_): what an engine does that has no better
    batch      cudaMemcpyBatchAsync, copy engines with one call (engine/batch_copy.py): this engine's way from 64 KiB on
    graph      one copy node per block, captured beforehand: the blocks must be known then
    launch     one kernel that reads and writes pinned memory itself (engine/copy_kernel.py): its way below

Blocks lie scattered in 2 GiB of pinned memory, 256 MiB are moved, five rounds interleave all ways; what came is
compared. `submit_ns` is the processor's time until the call returns, over all blocks.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dualpath.engine import batch_copy
from dualpath.engine.block_copy import copied_by_engines, copied_by_kernel

HOST_BYTES, MOVED_BYTES = 2 << 30, 256 << 20
BLOCK_BYTES = (16_384, 51_200, 65_536, 262_144, 1 << 20)
ROUNDS = 5
GRAPH_BLOCKS = 4096  # more nodes take minutes to capture
Way = Callable[[], object]


def ways(host: Any, gpu: Any, direction: str, size: int) -> dict[str, tuple[Way, int]]:
    """Name -> (what copies, blocks): all copy the same blocks."""
    source, target = (host, gpu) if direction == "h2d" else (gpu, host)
    num = MOVED_BYTES // size
    scattered = random.Random(size).sample(range(HOST_BYTES // size), num)
    in_row = range(num)
    pairs = list(zip(scattered, in_row, strict=True) if direction == "h2d" else zip(in_row, scattered, strict=True))
    pieces = np.array([(other * size, one * size, size) for one, other in pairs])
    views = [(source[a : a + n], target[b : b + n]) for b, a, n in pieces.tolist()]

    def calls() -> None:
        for one, other in views:
            other.copy_(one, non_blocking=True)

    found: dict[str, tuple[Way, int]] = {
        "large": (lambda: target[:MOVED_BYTES].copy_(source[:MOVED_BYTES], non_blocking=True), num),
        "calls": (calls, num),
        "launch": (lambda: copied_by_kernel(source, target, pieces), num),
    }
    if batch_copy.is_there():
        found["batch"] = (lambda: copied_by_engines(source, target, pieces), num)
    if num <= GRAPH_BLOCKS:
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            calls()
        found["graph"] = (graph.replay, num)
    return found


def timed(way: Way) -> tuple[int, int]:
    """(until the call returns, until the bytes are there), ns."""
    torch.cuda.synchronize()
    start_ns = time.perf_counter_ns()
    way()
    returned_ns = time.perf_counter_ns()
    torch.cuda.synchronize()
    return returned_ns - start_ns, time.perf_counter_ns() - start_ns


def rows() -> Iterator[dict[str, Any]]:
    host = torch.empty(HOST_BYTES, dtype=torch.uint8, pin_memory=True)
    gpu = torch.empty(HOST_BYTES, dtype=torch.uint8, device="cuda")
    properties = torch.cuda.get_device_properties(0)
    yield {"what": "setting", "gpu": properties.name, "torch": torch.__version__, "cuda": torch.version.cuda}
    for direction in ("h2d", "d2h"):
        for size in BLOCK_BYTES:
            found = ways(host, gpu, direction, size)
            source, target = (host, gpu) if direction == "h2d" else (gpu, host)
            for name, (way, _) in found.items():
                if name != "large":
                    check(way, source, target, size, name)
            for repeat in range(ROUNDS):
                for name, (way, num) in found.items():
                    submit_ns, moved_ns = timed(way)
                    yield {
                        "what": "copy",
                        "way": name,
                        "direction": direction,
                        "block_bytes": size,
                        "blocks": num,
                        "bytes": num * size,
                        "submit_ns": submit_ns,
                        "moved_ns": moved_ns,
                        "repeat": repeat,
                    }


def check(way: Way, source: Any, target: Any, size: int, name: str) -> None:
    """It moves what it says, first: and so it is warm, too. Fingerprints of blocks, wherever they lie."""
    marks = torch.randint(0, 256, (HOST_BYTES // size,), dtype=torch.uint8)
    source[: len(marks) * size].view(-1, size)[:, 0] = marks.to(source.device)
    target.zero_()
    torch.cuda.synchronize()
    way()
    torch.cuda.synchronize()
    scattered = random.Random(size).sample(range(HOST_BYTES // size), MOVED_BYTES // size)
    one, other = (scattered, range(len(scattered)))
    if target.is_cuda:
        came = target[: len(scattered) * size].view(-1, size)[:, 0].cpu()
        assert torch.equal(came, marks[torch.tensor(one)]), name
    else:
        came = target[: len(marks) * size].view(-1, size)[:, 0][torch.tensor(one)]
        assert torch.equal(came, marks[: len(other)]), name


def main() -> int:
    if not torch.cuda.is_available():
        print(f"error: {Path(__file__).name} needs a GPU", file=sys.stderr)
        return 3
    for row in rows():
        print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
