"""What posting RDMA work costs, and how much of the link it reaches, on this machine's device. Prints raw rows as JSON.

    python bench/rdma_cost.py [--seconds 2] > rows.jsonl

Rounds interleave, after one that is not kept; rows:
    post      ns per work request, posted alone (a doorbell each) or many per doorbell: posting, without the waiting
    move      ns per work request until its bytes are there, one after the other or many under way
    copy      ns of a plain copy of as many bytes between the same addresses
    write     MB/s of one-sided writes, and of perftest's ib_write_bw on the same device and GID (1 MiB messages)

A software device moves bytes while they are posted: there, what posting itself costs is the row of 64 bytes.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from dualpath.core.errors import DualpathError
from dualpath.engine.rdma.memory import Memory
from dualpath.engine.rdma.nic import Nic
from dualpath.engine.rdma.queue_pair import DOORBELL, Work
from dualpath.engine.rdma.settings import RdmaSettings

ROUNDS = 5
POSTS = 4  # of 64 work requests each
POST_BYTES = (64, 50_000, 256_000)  # nothing to speak of, and two sizes of Layer Blocks
MESSAGE_BYTES = 1 << 20
REGION_BYTES = 64 << 20


class Loop:
    """Two queue pairs of one device, connected to each other."""

    def __init__(self) -> None:
        self.near, self.far = Nic(RdmaSettings()), Nic(RdmaSettings())
        self.pair, other = self.near.queue_pair(hears_notices=False), self.far.queue_pair(hears_notices=False)
        self.pair.connect("far", self.far.facts, other.end)
        other.connect("near", self.near.facts, self.pair.end)
        self.source, self.target = (torch.zeros(REGION_BYTES, dtype=torch.uint8) for _ in range(2))
        self.own = self.near.register(self.source.data_ptr(), REGION_BYTES, is_shared=False)
        self.other = self.far.register(self.target.data_ptr(), REGION_BYTES, is_shared=True)

    def close(self) -> None:
        self.near.close()
        self.far.close()


def work_of(own: Memory, other: Memory, num_bytes: int, num: int) -> list[Work]:
    places = REGION_BYTES // num_bytes
    return [
        Work(own.address + k % places * num_bytes, other.address + k % places * num_bytes, num_bytes)
        for k in range(num)
    ]


def post_and_move_ns(loop: Loop, num_bytes: int, per_doorbell: int) -> tuple[float, float]:
    """Per work request: posting it, and until its bytes are there."""
    work = work_of(loop.own, loop.other, num_bytes, DOORBELL)
    posting_ns = moving_ns = 0
    for _ in range(POSTS):
        for first in range(0, len(work), per_doorbell):
            part = work[first : first + per_doorbell]
            start_ns = time.perf_counter_ns()
            posted = loop.pair.post("write", loop.own, loop.other.remote_key, part)
            posting_ns += time.perf_counter_ns() - start_ns
            loop.near.wait(posted)
            moving_ns += time.perf_counter_ns() - start_ns
    return posting_ns / POSTS / len(work), moving_ns / POSTS / len(work)


def copy_ns(loop: Loop, num_bytes: int) -> float:
    places = REGION_BYTES // num_bytes
    offsets = [k % places * num_bytes for k in range(DOORBELL)]
    start_ns = time.perf_counter_ns()
    for _ in range(POSTS):
        for at in offsets:
            loop.target[at : at + num_bytes].copy_(loop.source[at : at + num_bytes])
    return (time.perf_counter_ns() - start_ns) / POSTS / DOORBELL


def write_mb_per_s(loop: Loop, seconds: float) -> float:
    work = work_of(loop.own, loop.other, MESSAGE_BYTES, 16)
    moved, start_s = 0, time.perf_counter()
    waiting = [loop.pair.post("write", loop.own, loop.other.remote_key, work) for _ in range(2)]
    while time.perf_counter() - start_s < seconds:
        loop.near.wait(waiting.pop(0))
        moved += 16 * MESSAGE_BYTES
        waiting.append(loop.pair.post("write", loop.own, loop.other.remote_key, work))
    elapsed_s = time.perf_counter() - start_s
    for posted in waiting:
        loop.near.wait(posted)
    return moved / elapsed_s / 1e6


def perftest_mb_per_s(device: str, gid_index: int, seconds: float) -> float:
    messages = max(20, round(100e6 * seconds / MESSAGE_BYTES))
    command = ["ib_write_bw", "-d", device, "-s", str(MESSAGE_BYTES), "-n", str(messages), "-F", "-x", str(gid_index)]
    command.append("--report_gbits")
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(1.0)  # perftest says nowhere that it listens
        client = subprocess.run([*command, "127.0.0.1"], capture_output=True, text=True, timeout=60)
        shown = client.stdout + client.stderr
        server.wait(10)
    finally:
        server.kill()
    row = re.search(rf"^\s*{MESSAGE_BYTES}\s+\d+\s+\S+\s+(\S+)", shown, re.MULTILINE)
    assert row is not None, shown
    return float(row[1]) * 125


def rows(seconds: float) -> Iterator[dict[str, Any]]:
    loop = Loop()
    device = loop.near.facts.device
    yield {"what": "setting", "device": device, "mtu": 128 << loop.near.facts.mtu, "message_bytes": MESSAGE_BYTES}
    for repeat in range(-1, ROUNDS):  # the first one warms up
        found: list[dict[str, Any]] = []
        for num_bytes in POST_BYTES:
            for per_doorbell in (1, DOORBELL):
                for what, ns in zip(("post", "move"), post_and_move_ns(loop, num_bytes, per_doorbell), strict=True):
                    found.append({"what": what, "bytes": num_bytes, "per_doorbell": per_doorbell, "ns": ns})
            found.append({"what": "copy", "bytes": num_bytes, "ns": copy_ns(loop, num_bytes)})
        if repeat >= 0:
            found.append({"what": "write", "by": "dualpath", "mb_per_s": write_mb_per_s(loop, seconds)})
            if shutil.which("ib_write_bw"):
                value = perftest_mb_per_s(device, loop.near.gid_index, seconds)
                found.append({"what": "write", "by": "ib_write_bw", "mb_per_s": value})
            yield from ({**row, "repeat": repeat} for row in found)
    loop.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each throughput (default: %(default)s)")
    arguments = parser.parse_args()
    for row in rows(arguments.seconds):
        print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DualpathError as error:
        sys.exit(f"error: {error}")
