"""Reads and writes past the page cache, and what is said where that is not possible."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from dualpath.core.errors import StoreError
from dualpath.engine.direct_io import (
    ALIGNMENT,
    DirectFile,
    aligned_buffer,
    filesystem_of,
    is_aligned,
    store_error,
)

MOUNTS = """\
/dev/vda / ext4 rw 0 0
tmpfs /dev/shm tmpfs rw 0 0
server:/x /mnt/kv\\040cache nfs4 rw 0 0
tmpfs /mnt tmpfs rw 0 0
/dev/sdb /mnt xfs rw 0 0
"""


def resident_pages(path: Path) -> int:
    """How many pages of a file the page cache holds (mincore)."""
    libc = ctypes.CDLL(None, use_errno=True)
    size = path.stat().st_size
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as pages:
        address = np.frombuffer(pages, np.uint8).ctypes.data
        flags = (ctypes.c_ubyte * (-(-size // mmap.PAGESIZE)))()
        assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), flags) == 0
    return sum(flag & 1 for flag in flags)


@pytest.fixture(params=[True, False], ids=["direct", "buffered"])
def direct(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("num_bytes", [1, 4095, 4096, 4097, 70_000])
@pytest.mark.parametrize("shift", [0, 1], ids=["aligned", "shifted"])
def test_what_is_written_is_read(tmp_path: Path, direct: bool, num_bytes: int, shift: int) -> None:
    payload = np.random.default_rng(num_bytes).integers(0, 256, num_bytes, dtype=np.uint8)
    source = np.frombuffer(aligned_buffer(num_bytes + shift), np.uint8)[shift : shift + num_bytes]
    source[:] = payload
    into = np.zeros(num_bytes, np.uint8)
    with DirectFile(tmp_path / "f", "write", direct=direct) as file:
        file.write_from(source, ALIGNMENT)
        file.read_into(into, ALIGNMENT)
        assert file.size() >= ALIGNMENT + num_bytes
    assert np.array_equal(into, payload)


def test_a_shaped_array_is_taken_as_its_bytes(tmp_path: Path) -> None:
    payload = np.arange(4096, dtype=np.float32).reshape(4, 1024)
    into = np.zeros_like(payload)
    with DirectFile(tmp_path / "f", "write") as file:
        file.write_from(payload, 0)
        file.read_into(into, 0)
    assert np.array_equal(into, payload)


def test_direct_reads_and_writes_leave_the_page_cache_empty(tmp_path: Path) -> None:
    path = tmp_path / "f"
    block = aligned_buffer(256 << 10)
    with DirectFile(path, "write") as file:
        if not file.direct:
            pytest.skip(f"no O_DIRECT here: {file.reason}")
        file.write_from(block, 0)
        file.read_into(block, 0)
    assert resident_pages(path) == 0
    path.read_bytes()
    assert resident_pages(path) == (256 << 10) // mmap.PAGESIZE  # the probe does see cached pages


def test_buffered_reads_drop_their_pages(tmp_path: Path) -> None:
    path = tmp_path / "f"
    if filesystem_of(tmp_path) in ("tmpfs", "ramfs"):
        pytest.skip("a file in memory has no pages to drop")
    block = aligned_buffer(256 << 10)
    with DirectFile(path, "write", direct=False) as file:
        file.write_from(block, 0)
        file.sync()
        file.read_into(block, 0)
        assert (file.direct, file.reason) == (False, "asked for buffered access")
    assert resident_pages(path) == 0


def test_memory_file_systems_are_not_called_direct() -> None:
    if filesystem_of("/dev/shm") != "tmpfs" or not os.access("/dev/shm", os.W_OK):
        pytest.skip("/dev/shm is not a tmpfs one may write")
    path = Path(f"/dev/shm/dualpath-test-{os.getpid()}")
    try:
        with DirectFile(path, "write") as file:
            assert not file.direct
            assert "tmpfs" in str(file.reason)
    finally:
        path.unlink()


def test_a_refused_o_direct_falls_back_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = os.open

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_open(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    with DirectFile(tmp_path / "f", "write") as file:
        assert not file.direct
        assert file.reason == f"{filesystem_of(tmp_path)} refuses O_DIRECT"


def test_short_transfers_are_continued(tmp_path: Path, direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    payload = np.random.default_rng(0).integers(0, 256, 5 * ALIGNMENT, dtype=np.uint8).tobytes()
    calls: list[int] = []
    real_preadv, real_pwritev = os.preadv, os.pwritev

    def read_one_page(fd: int, views: list[memoryview], offset: int) -> int:
        calls.append(offset)
        return real_preadv(fd, [views[0][:ALIGNMENT]], offset)

    def write_one_page(fd: int, views: list[memoryview], offset: int) -> int:
        calls.append(offset)
        return real_pwritev(fd, [views[0][:ALIGNMENT]], offset)

    monkeypatch.setattr(os, "preadv", read_one_page)
    monkeypatch.setattr(os, "pwritev", write_one_page)
    into = aligned_buffer(len(payload))
    with DirectFile(tmp_path / "f", "write", direct=direct) as file:
        file.write_from(payload, 0)
        file.read_into(into, 0)
    assert into == payload
    assert len(calls) == 10


def test_a_file_that_ends_too_early_is_named_with_its_size(tmp_path: Path, direct: bool) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(5000))
    with (
        DirectFile(path, "read", direct=direct) as file,
        pytest.raises(StoreError, match=r"/f: 8,192 bytes wanted at offset 0, but the file ends at 5,000"),
    ):
        file.read_into(aligned_buffer(8192), 0)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"/none: cannot open to read: .*\[ENOENT\].*storage directory"):
        DirectFile(tmp_path / "none", "read")


def test_a_file_size_limit_is_named(tmp_path: Path, direct: bool) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with DirectFile(tmp_path / "f", "write", direct=direct) as file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (ALIGNMENT, limits[1]))
        try:
            with pytest.raises(StoreError, match=r"/f: cannot write 8,192 bytes at offset 0: .*ulimit -f"):
                file.write_from(aligned_buffer(8192), 0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EIO, "EIO.*dmesg"),
        (errno.ENOSPC, "ENOSPC.*bytes free.*disk is full"),
        (errno.EROFS, "EROFS.*read-only"),
        (errno.EACCES, "EACCES.*permission"),
        (errno.EXDEV, "EXDEV.*storage directory"),
    ],
)
def test_system_errors_become_advice(tmp_path: Path, number: int, words: str) -> None:
    error = store_error(OSError(number, os.strerror(number)), tmp_path / "f", "write")
    with pytest.raises(StoreError, match=f"/f: cannot write: .*{words}"):
        raise error


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data/x", "ext4"),
        ("/dev/shm/x", "tmpfs"),
        ("/dev/shmx", "ext4"),
        ("/mnt/kv cache/a/b", "nfs4"),
        ("/mnt/other", "xfs"),  # two mounts on one point: the later one shows
    ],
)
def test_filesystem_is_that_of_the_nearest_mount(tmp_path: Path, path: str, kind: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    assert filesystem_of(path, mounts) == kind


def test_filesystem_is_unknown_without_mounts(tmp_path: Path) -> None:
    assert filesystem_of("/", tmp_path / "none") == "unknown"


def test_alignment_needs_address_and_length() -> None:
    pages = aligned_buffer(8192)
    assert is_aligned(pages)
    assert not is_aligned(pages[1:4097])
    assert not is_aligned(pages[:5000])
