"""How close the engine's unpaced load comes to what the disk gives: check cpu.native.

Writes 1 GiB of Full Blocks with the engine's own writer, then reads the same files in three ways, in turn, each time
into the same PE buffer (one shared memory file; a slot per block):
(A) plain: O_DIRECT, 1 MiB a read, in file order, nothing done with the bytes.
(B) store: the engine's path: every block found by key, in shuffled order, into its slot, each checksum verified.
(C) same order: the reads of B without the engine: what checksums and Python cost.
The same number of threads in all. The memory must be the same, too: on the virtual disk this was written on, reads into
two buffers differ by 2.4x, steadily, with the physical pages that each happened to get. A disk's speed wanders by 2x
besides, so the check is the median of B / A over rounds (order ACB, BCA, ...), after one round that is kept but not
counted. Raw rows are in the JSON file. Example:

    python bench/native_load.py --json
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from dualpath.core.errors import DualpathError
from dualpath.engine.direct_io import aligned_buffer, filesystem_of
from dualpath.engine.store import BlockRead, BlockReader, Location, SegmentWriter, StoreLayout, create_store, scan

TARGET = 0.8
PLAIN_READ_BYTES = 1 << 20
NUM_WRITERS = 2


def write_blocks(directory: Path, layout: StoreLayout, num_blocks: int, pool: Executor) -> dict[bytes, Location]:
    """`num_blocks` different blocks through the engine's writer, found again as an engine would."""
    create_store(directory, layout)
    block = os.urandom(layout.block_bytes)

    def write_one(number: int, writer: SegmentWriter) -> None:
        payload = aligned_buffer(layout.stride_bytes)
        payload[: layout.block_bytes] = block
        payload[:8] = number.to_bytes(8, "little")
        writer.append(number.to_bytes(16, "little"), payload)

    for index in range(NUM_WRITERS):
        with SegmentWriter(directory, layout, f"de{index}") as writer:
            list(pool.map(partial(write_one, writer=writer), range(index, num_blocks, NUM_WRITERS)))
    found = scan(directory, layout)
    assert len(found) == num_blocks, f"{len(found)} of {num_blocks} blocks found again"
    return found


def plain_seconds(
    directory: Path,
    buffer: memoryview,
    pool: Executor,
    threads: int,
    chunk_bytes: int,
    seed: int | None,
    *,
    direct: bool,
) -> float:
    """(A, C) Every byte of every segment, in order or shuffled by a seed, into the buffer."""
    files = [os.open(path, os.O_RDONLY | (os.O_DIRECT if direct else 0)) for path in sorted(directory.glob("*.seg"))]
    chunks: list[tuple[int, int, memoryview]] = []  # descriptor, offset, destination
    base = 0
    for fd in files:
        size = os.fstat(fd).st_size
        for at in range(0, size, chunk_bytes):
            chunks.append((fd, at, buffer[base + at : base + min(at + chunk_bytes, size)]))
        base += size
    assert base == buffer.nbytes
    if seed is not None:
        random.Random(seed).shuffle(chunks)

    def read_share(index: int) -> None:
        for fd, at, view in chunks[index::threads]:
            got = 0
            while got < view.nbytes:
                got += os.preadv(fd, [view[got:]], at + got)

    start = time.perf_counter()
    list(pool.map(read_share, range(threads)))
    seconds = time.perf_counter() - start
    for fd in files:
        os.close(fd)
    return seconds


def store_seconds(
    reader: BlockReader, found: dict[bytes, Location], slots: list[memoryview], pool: Executor, threads: int, seed: int
) -> float:
    """(B) Every block by key, shuffled, into its slot of the PE buffer, verified."""
    keys = sorted(found)
    random.Random(seed).shuffle(keys)
    reads = [BlockRead(key, found[key], slot) for key, slot in zip(keys, slots, strict=True)]
    start = time.perf_counter()
    checksums = reader.read_many(reads, pool, in_flight=threads, path="native load")
    seconds = time.perf_counter() - start
    assert checksums == [found[key].checksum for key in keys]
    return seconds


def measure(
    directory: Path, num_bytes: int, block_bytes: int, threads: int, pairs: int, seed: int, say: Callable[[str], None]
) -> dict[str, object]:
    """The whole measurement in `directory`, which must not hold a store yet."""
    layout = StoreLayout("native-load", 64, block_bytes)
    num_blocks = -(-num_bytes // layout.stride_bytes)
    loaded_bytes = num_blocks * layout.stride_bytes
    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        found = write_blocks(directory, layout, num_blocks, pool)
        write_rate = loaded_bytes / (time.perf_counter() - started)
        say(f"wrote {loaded_bytes:,} bytes in {num_blocks} blocks at {write_rate / 1e6:.0f} MB/s")
        fd = os.memfd_create("pe-buffer")
        os.ftruncate(fd, loaded_bytes)
        buffer = mmap.mmap(fd, loaded_bytes)
        for at in range(0, loaded_bytes, 1 << 20):  # an engine's buffer is in memory before the first request
            buffer[at : at + (1 << 20)] = bytes(min(1 << 20, loaded_bytes - at))
        view = memoryview(buffer)
        stride = layout.stride_bytes
        slots = [view[at : at + stride] for at in range(0, loaded_bytes, stride)]
        with BlockReader(directory, layout) as reader:
            rounds: list[dict[str, float]] = []
            for number in range(pairs + 1):
                row: dict[str, float] = {}
                for arm in ("ACB", "BCA")[number % 2]:
                    order = seed + number
                    if arm == "B":
                        seconds = store_seconds(reader, found, slots, pool, threads, order)
                    else:
                        chunk, shuffle = (PLAIN_READ_BYTES, None) if arm == "A" else (stride, order)
                        seconds = plain_seconds(directory, view, pool, threads, chunk, shuffle, direct=reader.direct)
                    row[arm] = loaded_bytes / seconds
                rounds.append(row)
                say(
                    f"round {number}/{pairs}: plain {row['A'] / 1e6:.0f}, same order {row['C'] / 1e6:.0f}, "
                    f"store {row['B'] / 1e6:.0f} MB/s, store / plain {row['B'] / row['A']:.3f}"
                )
            is_direct = reader.direct
        os.close(fd)
    warm_up, counted = rounds[0], rounds[1:]
    ratios = [row["B"] / row["A"] for row in counted]
    return {
        "check": "cpu.native",
        "ratio": statistics.median(ratios),
        "target": TARGET,
        "pass": statistics.median(ratios) >= TARGET,
        "ratios": ratios,
        "same_order_ratio": statistics.median(row["B"] / row["C"] for row in counted),
        "plain_bytes_per_s": [row["A"] for row in counted],
        "store_bytes_per_s": [row["B"] for row in counted],
        "same_order_bytes_per_s": [row["C"] for row in counted],
        "warm_up_bytes_per_s": warm_up,
        "write_bytes_per_s": write_rate,
        "loaded_bytes": loaded_bytes,
        "block_bytes": block_bytes,
        "plain_read_bytes": PLAIN_READ_BYTES,
        "threads": threads,
        "filesystem": filesystem_of(directory),
        "direct_io": is_direct,
        "seed": seed,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path("bench/out/cpu"), help="on the disk to measure")
    parser.add_argument("--out", type=Path, default=Path("bench/out/cpu/native.json"))
    parser.add_argument("--bytes", type=int, default=1 << 30)
    parser.add_argument("--block-bytes", type=int, default=768 << 10)
    parser.add_argument("--threads", type=int, default=8, help="reads in flight, in every arm")
    parser.add_argument("--pairs", type=int, default=6, help="at least 4")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the result as the last line")
    options = parser.parse_args()
    if options.pairs < 4:
        parser.error("--pairs must be at least 4: the disk is too noisy for fewer")
    try:
        options.directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="native-store-", dir=options.directory) as scratch:
            free = shutil.disk_usage(scratch).free
            if free < 2 * options.bytes:
                print(f"{options.directory}: {free:,} bytes free, {2 * options.bytes:,} wanted", file=sys.stderr)
                return 3
            result = measure(
                Path(scratch),
                options.bytes,
                options.block_bytes,
                options.threads,
                options.pairs,
                options.seed,
                lambda line: print(line, file=sys.stderr),
            )
    except (DualpathError, OSError) as error:
        print(error, file=sys.stderr)
        return 3
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    if not result["direct_io"]:
        print("NOT a disk measurement: the page cache or memory served these reads", file=sys.stderr)
    if options.json:
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
