"""How close the engine's unpaced load comes to what the disk gives: check cpu.native.

Writes 1 GiB of Full Blocks with the engine's own writer, then reads the same files in three ways, in turn, each time
into the same PE buffer (shared memory; a slot per block):
(A) plain: O_DIRECT, 1 MiB a read, in file order, nothing done with the bytes.
(B) engine: a prefill engine's reader on a cluster with native links: every block found by key, in shuffled order, into
    its slot, taken through the (unpaced) links, counted, its checksum verified.
(C) same order: the reads of B without the engine: what checksums, counting and Python cost.
As many reads in flight in all. The memory must be the same, too: on the virtual disk this was written on, reads into
two buffers differ by 2.4x, steadily, with the physical pages that each happened to get. A disk's speed wanders by 2x
besides, so the check is the median of B / A over rounds (order BCA, ACB, ...), after one round that is kept but not
counted. Raw rows are in the JSON file. Example:

    python bench/native_load.py --json
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from dualpath.cluster_file import load_cluster
from dualpath.core.cluster import Cluster
from dualpath.core.errors import DualpathError
from dualpath.engine.block_reader import QueuedReader
from dualpath.engine.data_path import DataPath, link_rates
from dualpath.engine.direct_io import aligned_buffer, filesystem_of
from dualpath.engine.geometry import BlockGeometry, store_layout
from dualpath.engine.messages import BlockRef, BlocksRead, ReadBlocks
from dualpath.engine.meter import Meter
from dualpath.engine.pacer import Pacer
from dualpath.engine.shared_buffer import SharedBuffer
from dualpath.engine.store import BlockReader, Location, SegmentWriter, StoreLayout, create_store, scan

ROOT = Path(__file__).resolve().parents[1]
PLAIN_READ_BYTES = 1 << 20
NUM_WRITERS = 2


class EngineLoad:
    """The reader of one prefill engine, as its storage process builds it, on native links."""

    def __init__(self, cluster: Cluster, buffer: SharedBuffer, reader: BlockReader) -> None:
        self._done: queue.SimpleQueue[BlocksRead] = queue.SimpleQueue()
        self._num_requests = 0
        path = DataPath(cluster, Pacer.create(link_rates(cluster)), Meter())
        self._reader = QueuedReader(cluster, 0, path, buffer.view, reader, self._done.put, verify=False)
        self._reader.start(lambda name, body: threading.Thread(target=body, name=name, daemon=True).start())

    def seconds(self, found: dict[bytes, Location], seed: int) -> float:
        """(B) Every block, shuffled by a seed, into slots 0, 1, ..."""
        refs = [BlockRef(key, found[key]) for key in sorted(found)]
        random.Random(seed).shuffle(refs)
        message = ReadBlocks(self._num_requests, 0, refs, list(range(len(refs))), 0, 1)
        self._num_requests += 1
        start = time.perf_counter()
        self._reader.submit(message)
        self._done.get()
        return time.perf_counter() - start


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


def measure(
    directory: Path, cluster: Cluster, num_bytes: int, pairs: int, seed: int, say: Callable[[str], None]
) -> dict[str, object]:
    """The whole measurement in `directory`, which must not hold a store yet."""
    layout, stride, threads = store_layout(cluster), BlockGeometry.of(cluster).stride_bytes, cluster.read_in_flight
    num_blocks = -(-num_bytes // stride)
    loaded_bytes = num_blocks * stride
    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        found = write_blocks(directory, layout, num_blocks, pool)
        write_rate = loaded_bytes / (time.perf_counter() - started)
        say(f"wrote {loaded_bytes:,} bytes in {num_blocks} blocks at {write_rate / 1e6:.0f} MB/s")
        fd = os.memfd_create("pe-buffer")
        os.ftruncate(fd, loaded_bytes)
        buffer = SharedBuffer(fd, loaded_bytes)
        for at in range(0, loaded_bytes, stride):  # an engine's buffer is in memory before the first request
            buffer.view[at : at + stride] = bytes(stride)
        with BlockReader(directory, layout) as reader:
            engine = EngineLoad(cluster, buffer, reader)
            rounds: list[dict[str, float]] = []
            for number in range(pairs + 1):
                row: dict[str, float] = {}
                for arm in ("BCA", "ACB")[number % 2]:
                    order = seed + number
                    if arm == "B":
                        seconds = engine.seconds(found, order)
                    else:
                        chunk, shuffle = (PLAIN_READ_BYTES, None) if arm == "A" else (stride, order)
                        seconds = plain_seconds(
                            directory, buffer.view, pool, threads, chunk, shuffle, direct=reader.direct
                        )
                    row[arm] = loaded_bytes / seconds
                rounds.append(row)
                say(
                    f"round {number}/{pairs}: plain {row['A'] / 1e6:.0f}, same order {row['C'] / 1e6:.0f}, "
                    f"engine {row['B'] / 1e6:.0f} MB/s, engine / plain {row['B'] / row['A']:.3f}"
                )
            is_direct = reader.direct
    warm_up, counted = rounds[0], rounds[1:]
    return {
        "check": "cpu.native",
        "ratio": statistics.median(row["B"] / row["A"] for row in counted),
        "same_order_ratio": statistics.median(row["B"] / row["C"] for row in counted),
        "plain_bytes_per_s": [row["A"] for row in counted],
        "engine_bytes_per_s": [row["B"] for row in counted],
        "same_order_bytes_per_s": [row["C"] for row in counted],
        "warm_up_bytes_per_s": warm_up,
        "write_bytes_per_s": write_rate,
        "loaded_bytes": loaded_bytes,
        "block_bytes": layout.block_bytes,
        "plain_read_bytes": PLAIN_READ_BYTES,
        "in_flight": threads,
        "filesystem": filesystem_of(directory),
        "direct_io": is_direct,
        "seed": seed,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=ROOT / "bench/out/cpu", help="on the disk to measure")
    parser.add_argument("--out", type=Path, default=ROOT / "bench/out/cpu/native.json")
    parser.add_argument("--cluster", type=Path, default=ROOT / "bench/clusters/cpu-1p1d.toml", help="model and blocks")
    parser.add_argument("--bytes", type=int, default=1 << 30)
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
            cluster = replace(load_cluster(options.cluster).cluster, snic_bytes_per_s=None, cnic_bytes_per_s=None)
            result = measure(
                Path(scratch),
                cluster,
                options.bytes,
                options.pairs,
                options.seed,
                lambda line: print(line, file=sys.stderr, flush=True),
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
