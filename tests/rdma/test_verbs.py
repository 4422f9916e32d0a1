"""The NIC itself: bytes arrive whole and in place, errors say what failed, nothing is left."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import resource

import pytest
import torch
from dualpath.doctor import rdma
from dualpath.engine.rdma.memory import Memory
from dualpath.engine.rdma.nic import Nic
from dualpath.engine.rdma.queue_pair import DOORBELL, SEND_DEPTH, QueuePair, Work
from dualpath.engine.rdma.settings import RdmaError, RdmaSettings
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


@pytest.mark.parametrize(("seed", "largest"), [(1, 300), (2, 9_000), (3, 70_000), (4, 1 << 20)])
def test_pieces_of_any_size_in_any_order_arrive_bit_exact(nics: tuple[Nic, Nic], seed: int, largest: int) -> None:
    rng, total = random.Random(seed), 300_000
    near, far = connected(nics)
    (source, own), (target, other) = region(nics[0], total, is_shared=False), region(nics[1], total)
    source.copy_(torch.randint(0, 256, (total,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)))
    cut = pieces(rng, total, largest)
    posted = near.post(
        "write", own, other.remote_key, [Work(own.address + at, other.address + at, num) for at, num in cut], 7
    )
    nics[0].wait(posted)
    assert torch.equal(source, target)
    back, back_memory = region(nics[0], total, is_shared=False)
    work = [Work(back_memory.address + at, other.address + at, num) for at, num in pieces(rng, total, largest)]
    nics[0].wait(near.post("read", back_memory, other.remote_key, work))
    assert torch.equal(back, source)
    nics[1].look()
    assert far.num_notices == 1, "one notice for all of the write"
    assert near.num_bytes == 2 * total
    assert near.num_requests == len(cut) + len(work)
    assert near.num_doorbells == -(-len(cut) // DOORBELL) + -(-len(work) // DOORBELL)


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
