"""The block store: what was acknowledged is there, what is torn is never returned."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import xxhash
from dualpath.core.errors import CorruptBlockError, StoreError
from dualpath.engine.direct_io import aligned_buffer
from dualpath.engine.store import (
    BlockReader,
    Location,
    SegmentWriter,
    StoreLayout,
    create_store,
    scan,
)
from dualpath.engine.store_index import RECORD_BYTES

LAYOUT = StoreLayout("tiny-gqa float32", 64, 10_000)  # 3 pages a stride, the last one partly padding

WRITER = """\
import os, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from dualpath.engine.store import SegmentWriter, StoreLayout

directory, first, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
layout = StoreLayout("tiny-gqa float32", 64, 10_000)
with SegmentWriter(directory, layout, "de0") as writer, ThreadPoolExecutor(threads) as pool:
    def append(number):
        key = number.to_bytes(16, "little")
        writer.append(key, np.random.default_rng(number).integers(0, 256, layout.block_bytes, dtype=np.uint8))
        os.write(1, b"%d\\n" % number)  # one write a line, whatever the other threads do
    list(pool.map(append, range(first, first + 100_000)))
"""


def key(number: int) -> bytes:
    return number.to_bytes(16, "little")


def content(number: int) -> npt.NDArray[np.uint8]:
    """Block `number`'s bytes, the same in every process."""
    return np.random.default_rng(number).integers(0, 256, LAYOUT.block_bytes, dtype=np.uint8)


def filled(directory: Path, numbers: range, writer: str = "de0") -> dict[int, Location]:
    create_store(directory, LAYOUT)
    with SegmentWriter(directory, LAYOUT, writer) as segment:
        return {number: segment.append(key(number), content(number)) for number in numbers}


def read_numbers(directory: Path, found: dict[bytes, Location]) -> set[int]:
    """Reads every block found, compares its bytes, and returns the block numbers."""
    numbers = set()
    with BlockReader(directory, LAYOUT) as reader:
        for block_key, location in found.items():
            number = int.from_bytes(block_key, "little")
            slot = aligned_buffer(LAYOUT.stride_bytes)
            assert reader.read(block_key, location, slot, path="test") == location.checksum
            assert np.array_equal(np.frombuffer(slot, np.uint8)[: LAYOUT.block_bytes], content(number))
            numbers.add(number)
    return numbers


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB of its own."""
    directory = tmp_path / "disk"
    directory.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(directory)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a small file system: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


# round trips


def test_blocks_come_back_with_the_checksum_written(tmp_path: Path) -> None:
    written = filled(tmp_path, range(5))
    found = scan(tmp_path, LAYOUT)
    assert found == {key(number): location for number, location in written.items()}
    assert read_numbers(tmp_path, found) == set(range(5))
    assert written[3].checksum == xxhash.xxh3_64_intdigest(content(3).tobytes())


def test_stride_is_whole_pages() -> None:
    assert LAYOUT.stride_bytes == 12_288
    assert StoreLayout("m", 64, 8192).stride_bytes == 8192


@pytest.mark.parametrize("direct", [True, False])
def test_padded_and_bare_blocks_are_the_same_block(tmp_path: Path, direct: bool) -> None:
    create_store(tmp_path, LAYOUT)
    padded = aligned_buffer(LAYOUT.stride_bytes)
    padded[: LAYOUT.block_bytes] = content(1).tobytes()
    padded[LAYOUT.block_bytes :] = b"?" * (LAYOUT.stride_bytes - LAYOUT.block_bytes)
    with SegmentWriter(tmp_path, LAYOUT, "de0", direct=direct) as writer:
        assert writer.direct is direct or writer.direct_reason
        first, second = writer.append(key(1), padded), writer.append(key(2), content(1))
    assert first.checksum == second.checksum
    with BlockReader(tmp_path, LAYOUT, direct=direct) as reader:
        for slot_bytes in (LAYOUT.block_bytes, LAYOUT.stride_bytes):
            slot = np.zeros(slot_bytes, np.uint8)
            reader.read(key(2), second, slot, path="test")
            assert np.array_equal(slot[: LAYOUT.block_bytes], content(1))
        assert reader.direct is direct or not writer.direct


def test_several_threads_append_and_read_at_once(tmp_path: Path) -> None:
    create_store(tmp_path, LAYOUT)
    with (
        SegmentWriter(tmp_path, LAYOUT, "de0") as writer,
        BlockReader(tmp_path, LAYOUT) as reader,
        ThreadPoolExecutor(4) as pool,
    ):

        def append_then_read(number: int) -> Location:
            location = writer.append(key(number), content(number))
            slot = np.zeros(LAYOUT.block_bytes, np.uint8)
            reader.read(key(number), location, slot, path="test")
            assert np.array_equal(slot, content(number))
            return location

        locations = list(pool.map(append_then_read, range(60)))
    assert {location.offset for location in locations} == {n * LAYOUT.stride_bytes for n in range(60)}
    assert read_numbers(tmp_path, scan(tmp_path, LAYOUT)) == set(range(60))


def test_two_writers_share_a_store(tmp_path: Path) -> None:
    create_store(tmp_path, LAYOUT)
    with SegmentWriter(tmp_path, LAYOUT, "de0") as one, SegmentWriter(tmp_path, LAYOUT, "de1") as two:
        for number in range(0, 10, 2):
            one.append(key(number), content(number))
            two.append(key(number + 1), content(number + 1))
    found = scan(tmp_path, LAYOUT)
    assert {location.segment for location in found.values()} == {"de0", "de1"}
    assert read_numbers(tmp_path, found) == set(range(10))


def test_a_block_written_twice_is_found_once_and_right(tmp_path: Path) -> None:
    filled(tmp_path, range(3))
    again = filled(tmp_path, range(3))
    assert scan(tmp_path, LAYOUT)[key(1)] == again[1]
    assert read_numbers(tmp_path, scan(tmp_path, LAYOUT)) == {0, 1, 2}


def test_disk_durability_reads_back(tmp_path: Path) -> None:
    create_store(tmp_path, LAYOUT)
    with SegmentWriter(tmp_path, LAYOUT, "de0", durable="disk") as writer:
        location = writer.append(key(1), content(1))
    assert scan(tmp_path, LAYOUT) == {key(1): location}


# crashes


@pytest.mark.parametrize("seed", range(6))
def test_a_killed_writer_loses_nothing_it_acknowledged(tmp_path: Path, seed: int) -> None:
    """kill -9 at a random moment, twice, the second time in a writer that goes on behind the first."""
    rng = random.Random(seed)
    create_store(tmp_path, LAYOUT)
    acknowledged: set[int] = set()
    for first in (0, 1_000_000):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(first), str(rng.choice([1, 3]))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(rng.randint(1, 60)):
                acknowledged.add(int(process.stdout.readline()))
            for _ in range(rng.randint(0, 20_000)):  # a random moment between two acknowledgements
                pass
            process.kill()
            # whole lines only: a writer may die while it prints
            rest = process.stdout.read()
            acknowledged.update(int(line) for line in rest.splitlines(keepends=True) if line.endswith("\n"))
    numbers = read_numbers(tmp_path, scan(tmp_path, LAYOUT))
    assert acknowledged <= numbers
    assert len(numbers - acknowledged) <= 6  # written, but killed before it could say so: one per thread


def test_an_index_cut_anywhere_keeps_its_whole_records(tmp_path: Path) -> None:
    filled(tmp_path, range(3))
    index = tmp_path / "de0.idx"
    whole = index.read_bytes()
    assert len(whole) == 3 * RECORD_BYTES
    for cut in range(len(whole) + 1):
        index.write_bytes(whole[:cut])
        assert set(scan(tmp_path, LAYOUT)) == {key(number) for number in range(cut // RECORD_BYTES)}


@pytest.mark.parametrize("cut", [1, RECORD_BYTES - 1, RECORD_BYTES + 1, 2 * RECORD_BYTES + 17])
def test_a_writer_goes_on_behind_a_torn_record(tmp_path: Path, cut: int) -> None:
    filled(tmp_path, range(3))
    index = tmp_path / "de0.idx"
    index.write_bytes(index.read_bytes()[:cut])
    filled(tmp_path, range(10, 12))
    assert read_numbers(tmp_path, scan(tmp_path, LAYOUT)) == {*range(cut // RECORD_BYTES), 10, 11}


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param(block * LAYOUT.stride_bytes + extra, id=f"block{block}{extra:+}")
        for block in range(4)
        for extra in (-1, 0, 1, 4096, LAYOUT.block_bytes)
        if 0 <= block * LAYOUT.stride_bytes + extra <= 3 * LAYOUT.stride_bytes
    ],
)
def test_a_segment_cut_anywhere_keeps_its_whole_blocks(tmp_path: Path, cut: int) -> None:
    old = filled(tmp_path, range(3))
    os.truncate(tmp_path / "de0.seg", cut)
    kept = set(range(cut // LAYOUT.stride_bytes))
    assert read_numbers(tmp_path, scan(tmp_path, LAYOUT)) == kept
    # a new block must not come to lie where a record of a lost one points
    new = filled(tmp_path, range(10, 14))
    assert min(place.offset for place in new.values()) >= max(place.offset for place in old.values()) + 12_288
    found = scan(tmp_path, LAYOUT)
    whole = {block_key: location for block_key, location in found.items() if block_key not in map(key, range(3))}
    assert read_numbers(tmp_path, whole) == {10, 11, 12, 13}
    # the record of a lost block may find its range filled again: it is right (only padding was cut) or refused
    with BlockReader(tmp_path, LAYOUT) as reader:
        for number in ({0, 1, 2} - kept) & {int.from_bytes(block_key, "little") for block_key in found}:
            slot = aligned_buffer(LAYOUT.stride_bytes)
            if cut - number * LAYOUT.stride_bytes >= LAYOUT.block_bytes:
                reader.read(key(number), found[key(number)], slot, path="test")
            else:
                with pytest.raises(CorruptBlockError):
                    reader.read(key(number), found[key(number)], slot, path="test")


def test_a_damaged_record_hides_only_its_own_block(tmp_path: Path) -> None:
    filled(tmp_path, range(3))
    index = tmp_path / "de0.idx"
    whole = index.read_bytes()
    for at in range(RECORD_BYTES, 2 * RECORD_BYTES):
        damaged = bytearray(whole)
        damaged[at] ^= 0x10
        index.write_bytes(damaged)
        assert set(scan(tmp_path, LAYOUT)) == {key(0), key(2)}


def test_records_of_zeros_are_no_blocks(tmp_path: Path) -> None:
    """What some file systems leave at the end of a file after a power loss."""
    filled(tmp_path, range(2))
    with (tmp_path / "de0.idx").open("ab") as index:
        index.write(bytes(3 * RECORD_BYTES))
    assert set(scan(tmp_path, LAYOUT)) == {key(0), key(1)}


def test_an_index_whose_segment_is_gone_has_no_blocks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    filled(tmp_path, range(3))
    (tmp_path / "de0.seg").unlink()
    assert scan(tmp_path, LAYOUT) == {}
    assert "3 that point past the end" in caplog.text


# corruption


@pytest.mark.parametrize("at", [0, 4096, LAYOUT.block_bytes - 1])
@pytest.mark.parametrize("direct", [True, False])
def test_one_flipped_bit_is_found(tmp_path: Path, at: int, direct: bool) -> None:
    written = filled(tmp_path, range(3))
    with (tmp_path / "de0.seg").open("r+b") as file:
        file.seek(LAYOUT.stride_bytes + at)
        byte = file.read(1)
        file.seek(LAYOUT.stride_bytes + at)
        file.write(bytes([byte[0] ^ 1]))
        os.fsync(file.fileno())
    with BlockReader(tmp_path, LAYOUT, direct=direct) as reader:
        slot = aligned_buffer(LAYOUT.stride_bytes)
        reader.read(key(0), written[0], slot, path="decode route, DE 1")
        with pytest.raises(CorruptBlockError) as caught:
            reader.read(key(1), written[1], slot, path="decode route, DE 1")
    message = str(caught.value)
    for part in (key(1).hex(), "de0.seg", "12,288", "decode route, DE 1", f"{written[1].checksum:016x}"):
        assert part in message


def test_damaged_padding_harms_nobody(tmp_path: Path) -> None:
    filled(tmp_path, range(1))
    with (tmp_path / "de0.seg").open("r+b") as file:
        file.seek(LAYOUT.block_bytes)
        file.write(b"x")
        os.fsync(file.fileno())
    assert read_numbers(tmp_path, scan(tmp_path, LAYOUT)) == {0}


def test_a_segment_cut_while_open_is_named(tmp_path: Path) -> None:
    written = filled(tmp_path, range(2))
    os.truncate(tmp_path / "de0.seg", LAYOUT.stride_bytes + 4096)
    with (
        BlockReader(tmp_path, LAYOUT) as reader,
        pytest.raises(StoreError, match=rf"block {key(1).hex()} on the prefill route, PE 0: .*de0\.seg.*16,384"),
    ):
        reader.read(key(1), written[1], aligned_buffer(LAYOUT.stride_bytes), path="prefill route, PE 0")


# wrong stores


@pytest.mark.parametrize(
    "other",
    [
        StoreLayout("tiny-mla float32", 64, 10_000),
        StoreLayout("tiny-gqa float32", 32, 10_000),
        StoreLayout("tiny-gqa float32", 64, 5_000),
    ],
)
def test_another_model_or_layout_is_refused_by_everyone(tmp_path: Path, other: StoreLayout) -> None:
    filled(tmp_path, range(1))
    for opening in (
        lambda: create_store(tmp_path, other),
        lambda: SegmentWriter(tmp_path, other, "de1"),
        lambda: BlockReader(tmp_path, other),
        lambda: scan(tmp_path, other),
    ):
        with pytest.raises(StoreError, match="another model or layout") as caught:
            opening()
        for layout in (LAYOUT, other):  # both are named
            assert layout.model in str(caught.value)
            assert str(layout.block_bytes) in str(caught.value)
    assert not (tmp_path / "de1.seg").exists()


def test_creating_an_existing_store_keeps_it(tmp_path: Path) -> None:
    filled(tmp_path, range(2))
    before = hashlib.sha256((tmp_path / "de0.seg").read_bytes()).digest()
    create_store(tmp_path, LAYOUT)
    assert hashlib.sha256((tmp_path / "de0.seg").read_bytes()).digest() == before
    assert {path.name for path in tmp_path.iterdir()} == {"store.json", "de0.seg", "de0.idx"}


def test_of_two_creators_with_two_layouts_one_wins(tmp_path: Path) -> None:
    layouts = [StoreLayout("a", 64, 4096), StoreLayout("b", 64, 4096)] * 8

    def attempt(layout: StoreLayout) -> str | None:
        try:
            create_store(tmp_path / "new", layout)
        except StoreError:
            return None
        return layout.model

    with ThreadPoolExecutor(8) as pool:
        winners = set(pool.map(attempt, layouts))
    assert winners in ({"a", None}, {"b", None})


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "other"}'])
def test_a_broken_store_json_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "store.json").write_text(text)
    with pytest.raises(StoreError, match=r"store\.json"):
        scan(tmp_path, LAYOUT)


def test_a_missing_directory_and_a_plain_one_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        scan(tmp_path / "none", LAYOUT)
    with pytest.raises(StoreError, match=r"has no store\.json"):
        BlockReader(tmp_path, LAYOUT)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="file/store: cannot create a block store"):
        create_store(tmp_path / "file" / "store", LAYOUT)


@pytest.mark.parametrize(("tokens", "num_bytes", "model"), [(0, 1, "m"), (64, 0, "m"), (64, 1, "")])
def test_an_impossible_layout_is_refused(tokens: int, num_bytes: int, model: str) -> None:
    with pytest.raises(StoreError, match="store layout"):
        StoreLayout(model, tokens, num_bytes)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b"])
def test_a_writer_name_must_be_a_file_name(tmp_path: Path, name: str) -> None:
    create_store(tmp_path, LAYOUT)
    with pytest.raises(StoreError, match="segment name"):
        SegmentWriter(tmp_path, LAYOUT, name)


def test_a_segment_has_one_writer(tmp_path: Path) -> None:
    create_store(tmp_path, LAYOUT)
    with (
        SegmentWriter(tmp_path, LAYOUT, "de0"),
        pytest.raises(StoreError, match=r"de0\.seg: another process"),
    ):
        SegmentWriter(tmp_path, LAYOUT, "de0")


# a directory that cannot take more


def test_a_full_disk_is_named_and_nothing_is_lost(small_disk: Path) -> None:
    create_store(small_disk, LAYOUT)
    with SegmentWriter(small_disk, LAYOUT, "de0") as writer:
        assert not writer.direct
        fitting = (256 << 10) // LAYOUT.stride_bytes - 1  # store.json and the index need a page each
        for number in range(fitting):
            writer.append(key(number), content(number))
        with pytest.raises(StoreError, match=r"de0\.seg: cannot write .*\[ENOSPC\].*disk is full"):
            writer.append(key(fitting), content(fitting))
    assert read_numbers(small_disk, scan(small_disk, LAYOUT)) == set(range(fitting))


def test_a_writer_goes_on_once_there_is_room(tmp_path: Path) -> None:
    create_store(tmp_path, LAYOUT)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with SegmentWriter(tmp_path, LAYOUT, "de0") as writer:
        writer.append(key(0), content(0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (LAYOUT.stride_bytes + 4096, limits[1]))
        try:
            with pytest.raises(StoreError, match=r"de0\.seg: cannot write .*ulimit -f"):
                writer.append(key(1), content(1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        writer.append(key(2), content(2))
    assert read_numbers(tmp_path, scan(tmp_path, LAYOUT)) == {0, 2}


def test_a_record_that_does_not_fit_leaves_the_index_whole(tmp_path: Path) -> None:
    create_store(tmp_path, LAYOUT)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with SegmentWriter(tmp_path, LAYOUT, "de0") as writer:
        writer.append(key(0), content(0))
        data, writer._data.write_from = writer._data.write_from, lambda view, offset: None  # type: ignore[method-assign]
        resource.setrlimit(resource.RLIMIT_FSIZE, (RECORD_BYTES + 7, limits[1]))
        try:
            with pytest.raises(StoreError, match=r"de0\.idx: cannot append a record"):
                writer.append(key(1), content(1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert (tmp_path / "de0.idx").stat().st_size == RECORD_BYTES
        writer._data.write_from = data  # type: ignore[method-assign]
        writer.append(key(2), content(2))
    assert read_numbers(tmp_path, scan(tmp_path, LAYOUT)) == {0, 2}


def test_a_read_only_store_reads_but_does_not_write(small_disk: Path) -> None:
    filled(small_disk, range(2))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert read_numbers(small_disk, scan(small_disk, LAYOUT)) == {0, 1}
    with pytest.raises(StoreError, match=r"de0\.seg: cannot open to write: .*\[EROFS\].*read-only"):
        SegmentWriter(small_disk, LAYOUT, "de0")
    with pytest.raises(StoreError, match=r"\[EROFS\]"):
        create_store(small_disk / "new", LAYOUT)


def test_a_directory_without_permission_is_named(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    create_store(tmp_path, LAYOUT)
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(StoreError, match=r"\[EACCES\].*permission"):
            SegmentWriter(tmp_path, LAYOUT, "de0")
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize("num_bytes", [0, LAYOUT.block_bytes - 1, LAYOUT.stride_bytes + 1])
def test_a_block_of_the_wrong_size_is_a_mistake_of_ours(tmp_path: Path, num_bytes: int) -> None:
    create_store(tmp_path, LAYOUT)
    with SegmentWriter(tmp_path, LAYOUT, "de0") as writer:
        with pytest.raises(ValueError, match="payload of"):
            writer.append(key(1), bytes(num_bytes))
        with pytest.raises(ValueError, match="has 4 bytes"):
            writer.append(b"abcd", content(1))
        location = writer.append(key(1), content(1))
    with BlockReader(tmp_path, LAYOUT) as reader, pytest.raises(ValueError, match="slot of"):
        reader.read(key(1), location, bytearray(num_bytes), path="test")
