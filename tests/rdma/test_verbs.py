"""The NIC itself: bytes arrive whole and in place, errors say what failed, nothing is left."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import resource
import subprocess
import tempfile
import time
from typing import Literal

import msgspec
import pytest
import torch
from dualpath.doctor import rdma
from dualpath.engine.rdma.memory import Memory
from dualpath.engine.rdma.nic import Nic
from dualpath.engine.rdma.queue_pair import DOORBELL, SEND_DEPTH, QueuePair, Work
from dualpath.engine.rdma.settings import RdmaError, RdmaSettings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

pytestmark = pytest.mark.rdma
Ends = tuple[QueuePair, QueuePair]


def connected(nics: tuple[Nic, Nic]) -> Ends:
    near, far = nics[0].queue_pair(hears_notices=False), nics[1].queue_pair(hears_notices=True)
    near.connect("far", nics[1].facts, far.end)
    far.connect("near", nics[0].facts, near.end)
    return near, far


def region(nic: Nic, num_bytes: int, *, is_shared: bool = True) -> tuple[Tensor, Memory]:
    tensor = torch.zeros(num_bytes, dtype=torch.uint8)
    return tensor, nic.register(tensor.data_ptr(), num_bytes, is_shared=is_shared)


def pieces(rng: random.Random, total: int, largest: int) -> list[tuple[int, int]]:
    """(offset, bytes): all of a region cut up, in any order."""
    cuts, offset = [], 0
    while offset < total:
        num = min(rng.randint(1, largest), total - offset)
        cuts.append((offset, num))
        offset += num
    rng.shuffle(cuts)
    return cuts


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    largest=st.sampled_from([1, 300, 4096, 9_000, 70_000, 1 << 20]),
    per_doorbell=st.integers(1, DOORBELL),
    calls=st.integers(1, 4),
)
def test_whatever_the_cut_the_order_and_the_batching_bytes_arrive_exact(
    nics: tuple[Nic, Nic], seed: int, largest: int, per_doorbell: int, calls: int
) -> None:
    """A region is cut up, shuffled, and written in several calls that are all under way at once; then read back, cut
    another way."""
    rng, total = random.Random(seed), 200 * largest if largest < 300 else 300_000
    near, far = connected(nics)
    (source, own), (target, other) = region(nics[0], total, is_shared=False), region(nics[1], total)
    source.copy_(torch.randint(0, 256, (total,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)))

    def move(kind: Literal["read", "write"], local: Memory, notice: int | None) -> int:
        cut = pieces(rng, total, largest)
        shares = [cut[number::calls] for number in range(calls) if cut[number::calls]]
        posted = [
            near.post(
                kind,
                local,
                other.remote_key,
                [Work(local.address + at, other.address + at, num) for at, num in share],
                notice,
                per_doorbell,
            )
            for share in shares
        ]
        for each in rng.sample(posted, len(posted)):
            nics[0].wait(each)
        doorbells = sum(-(-len(share) // per_doorbell) for share in shares)
        assert (near.num_requests, near.num_doorbells) == (before[0] + len(cut), before[1] + doorbells)
        return len(shares)

    before = (near.num_requests, near.num_doorbells)
    num_notices = move("write", own, 7)
    assert torch.equal(source, target)
    back, back_memory = region(nics[0], total, is_shared=False)
    before = (near.num_requests, near.num_doorbells)
    move("read", back_memory, None)
    assert torch.equal(back, source)
    nics[1].look()
    assert far.num_notices == num_notices, "one notice for each call that wrote"
    assert near.num_bytes == 2 * total
    for pair in (near, far):
        pair.close()


def test_more_than_the_queue_holds_waits_its_turn(nics: tuple[Nic, Nic]) -> None:
    near, _ = connected(nics)
    num = 3 * SEND_DEPTH + 5
    (source, own), (target, other) = region(nics[0], num), region(nics[1], num)
    source.copy_(torch.arange(num) % 251)
    nics[0].wait(
        near.post("write", own, other.remote_key, [Work(own.address + k, other.address + k, 1) for k in range(num)])
    )
    assert torch.equal(source, target)


def test_memory_that_is_not_shared_cannot_be_written(nics: tuple[Nic, Nic]) -> None:
    near, _ = connected(nics)
    (_, own), (target, other) = region(nics[0], 4096), region(nics[1], 4096, is_shared=False)
    posted = near.post("write", own, other.remote_key, [Work(own.address, other.address, 4096)])
    with pytest.raises(RdmaError, match="far: remote access error; the peer's memory is not registered"):
        nics[0].wait(posted)
    assert not target.any()


def test_nothing_outside_a_region_can_be_read(nics: tuple[Nic, Nic]) -> None:
    near, _ = connected(nics)
    (_, own), (_, other) = region(nics[0], 8192), region(nics[1], 4096)
    posted = near.post("read", own, other.remote_key, [Work(own.address, other.address + 1, 4096)])
    with pytest.raises(RdmaError, match="remote access error"):
        nics[0].wait(posted)


def test_after_an_error_all_that_was_under_way_fails_and_nothing_hangs(nics: tuple[Nic, Nic]) -> None:
    near, _ = connected(nics)
    (_, own), (_, other) = region(nics[0], 4096), region(nics[1], 4096)
    bad = near.post("write", own, other.remote_key ^ 0x5A5A, [Work(own.address, other.address, 64)])
    after = near.post("write", own, other.remote_key, [Work(own.address, other.address, 64)])
    for posted in (bad, after):
        with pytest.raises(RdmaError):
            nics[0].wait(posted)


def test_a_peer_that_is_gone_is_an_error_in_time() -> None:
    settings = RdmaSettings(timeout_s=3)
    nics = Nic(settings), Nic(settings)
    near, _ = connected(nics)
    (_, own), (_, other) = region(nics[0], 4096), region(nics[1], 4096)
    nics[1].close()
    posted = near.post("write", own, other.remote_key, [Work(own.address, other.address, 64)])
    with pytest.raises(RdmaError, match=r"retries exceeded|no completion within 3 s"):
        nics[0].wait(posted)
    nics[0].close()


def test_the_doctor_sees_the_device() -> None:
    (finding,) = rdma()
    assert finding.ok, finding.hint
    assert finding.value.startswith("rxe0 (active, Ethernet, ")


def test_ends_of_different_kinds_are_not_connected(nics: tuple[Nic, Nic]) -> None:
    """An IPv6 GID (the first of a RoCE port) against the IPv4 one that is chosen by default."""
    other = Nic(RdmaSettings(gid_index=0))
    try:
        near, far = nics[0].queue_pair(), other.queue_pair()
        with pytest.raises(RdmaError, match=r"not of one kind \(IPv4 or IPv6\); see --gid-index"):
            near.connect("far", other.facts, far.end)
    finally:
        other.close()


def test_ends_of_different_fabrics_are_not_connected(nics: tuple[Nic, Nic]) -> None:
    near, far = nics[0].queue_pair(), nics[1].queue_pair()
    infiniband = msgspec.structs.replace(nics[1].facts, is_ethernet=False)
    with pytest.raises(RdmaError, match="is InfiniBand, ours rxe0 is Ethernet; choose devices of one fabric"):
        near.connect("far", infiniband, far.end)
    version_1 = msgspec.structs.replace(nics[1].facts, gid_type="IB/RoCE v1")
    with pytest.raises(RdmaError, match=r"of IB/RoCE v1, ours .* of RoCE v2; see --gid-index"):
        near.connect("far", version_1, far.end)


def test_a_port_that_is_down() -> None:
    """The loopback under the device is taken down, and up again."""
    subprocess.run(["ip", "link", "set", "lo", "down"], check=True)
    try:
        with pytest.raises(RdmaError, match=r"rxe0: port 1 is not active; bring the link up"):
            Nic(RdmaSettings())
    finally:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    deadline_s = time.monotonic() + 10
    while not rdma()[0].ok and time.monotonic() < deadline_s:
        time.sleep(0.05)
    Nic(RdmaSettings()).close()


def test_a_peer_that_stops_answering_is_retried_and_given_up() -> None:
    """Its queue pair is gone, its port is not: the NIC itself says that it has tried often enough."""
    nics = Nic(RdmaSettings(ack_timeout=12)), Nic(RdmaSettings())
    near, far = connected(nics)
    (_, own), (_, other) = region(nics[0], 4096), region(nics[1], 4096)
    far.close()
    posted = near.post("write", own, other.remote_key, [Work(own.address, other.address, 64)])
    with pytest.raises(RdmaError, match="far: retries exceeded: the peer does not answer; the peer is gone"):
        nics[0].wait(posted)
    for nic in nics:
        nic.close()


def test_device_memory_without_a_dma_buf_is_refused_by_the_nic(nics: tuple[Nic, Nic]) -> None:
    with tempfile.TemporaryFile() as file, pytest.raises(RdmaError, match="rxe0: no registration of dma-buf memory"):
        nics[0].register_dma_buf(file.fileno(), 0, 4096)


def test_no_such_device() -> None:
    with pytest.raises(RdmaError, match=r"no RDMA device 'nope'; there are rxe0; choose one with --rdma-device"):
        Nic(RdmaSettings(device="nope"))


def test_no_such_gid() -> None:
    with pytest.raises(RdmaError, match="no GID at index 200; there are"):
        Nic(RdmaSettings(gid_index=200))


def test_a_limit_on_locked_memory_is_named() -> None:
    """In a child that has given up the right to ignore the limit, as users have."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            nic, memory = Nic(RdmaSettings()), mmap.mmap(-1, 1 << 22)
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 16, 1 << 16))
            os.setuid(65534)
            address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            nic.register(address, len(memory), is_shared=True)
            os.write(writer, b"registered")
        except BaseException as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert b"may lock 65,536 bytes: raise it with `ulimit -l unlimited`" in os.read(reader, 4096)
    os.close(reader)
    os.close(writer)


def test_closing_twice_and_in_any_order(nics: tuple[Nic, Nic]) -> None:
    near, far = connected(nics)
    region(nics[0], 4096)
    near.close()
    nics[0].close()
    near.close()
    nics[0].close()
    far.close()
    nics[1].close()
    assert nics[0].num_regions == nics[1].num_regions == 0
