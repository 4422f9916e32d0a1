"""A 3FS-like block store: Full Blocks in append-only segment files, each beside its index.

    DIR/store.json      layout; a store opened with another layout is refused
    DIR/<writer>.seg    Full Blocks, one every `stride_bytes`
    DIR/<writer>.idx    one record per acknowledged block: key, offset, its checksum, crc of the record

A block is acknowledged when `append` returns: its bytes are written and, after them, its index record. So
whatever moment a writer is killed at, `scan` finds every acknowledged block, and a torn one has no record or
fails its checksum. `durable="process"` (default) survives the death of the process; `"disk"` also waits for
fdatasync of both files, and so survives a power loss as far as the device honours it. Full Blocks: paper,
section 2.3. Not aware of tokens, routes or rates.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Literal

import xxhash

from dualpath.core.errors import CorruptBlockError, StoreError
from dualpath.engine.direct_io import Buffer, DirectFile, align_up, as_bytes, store_error
from dualpath.engine.store_index import (
    KEY_BYTES,
    RECORD_BYTES,
    Location,
    check_segment_name,
    pack_record,
    records,
    scan,
)
from dualpath.engine.store_layout import StoreLayout, check_store, create_store

__all__ = [
    "BlockReader",
    "Location",
    "SegmentWriter",
    "StoreLayout",
    "check_store",
    "checksum",
    "create_store",
    "scan",
]


def checksum(block: Buffer, layout: StoreLayout) -> int:
    """xxh3_64 of a block's `block_bytes`, whatever padding follows them. Releases the GIL."""
    return xxhash.xxh3_64_intdigest(as_bytes(block)[: layout.block_bytes])


class SegmentWriter:
    """The one writer of `<writer>.seg`. `append` may be called from several threads."""

    def __init__(
        self,
        directory: Path | str,
        layout: StoreLayout,
        writer: str,
        *,
        durable: Literal["process", "disk"] = "process",
        direct: bool = True,
    ) -> None:
        """Opens the segment, after a crash too: goes on behind what is there. Raises StoreError, also where
        another process writes the same segment."""
        check_segment_name(writer)
        check_store(directory, layout)
        self.layout = layout
        self.segment = writer
        self._durable = durable
        self._lock = threading.Lock()
        self._data = DirectFile(Path(directory) / f"{writer}.seg", "write", direct=direct)
        self._index_path = Path(directory) / f"{writer}.idx"
        self._index = -1
        try:
            self._lock_segment()
            self._index = os.open(self._index_path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            self._index_bytes = os.fstat(self._index).st_size // RECORD_BYTES * RECORD_BYTES
            os.ftruncate(self._index, self._index_bytes)  # a torn last record would shift all later ones
            self._next_offset = self._end_of_data()
            if durable == "disk":
                _sync_directory(directory)  # the new files' names
        except OSError as error:
            self.close()
            raise store_error(error, self._index_path, "open the segment's index") from error
        except StoreError:
            self.close()
            raise

    @property
    def direct(self) -> bool:
        """Whether writes bypass the page cache; `direct_reason` says why not."""
        return self._data.direct

    @property
    def direct_reason(self) -> str | None:
        return self._data.reason

    def append(self, key: bytes, payload: Buffer) -> Location:
        """Writes one block and returns once it is acknowledged. `payload` is `block_bytes` or `stride_bytes`
        long; page-aligned memory of `stride_bytes` is written without a copy. Raises StoreError; the block is
        then not in the store, and the writer stays usable."""
        data = as_bytes(payload)
        if len(key) != KEY_BYTES:
            raise ValueError(f"block key {key.hex()} has {len(key)} bytes, not {KEY_BYTES}")
        if data.nbytes not in (self.layout.block_bytes, self.layout.stride_bytes):
            raise ValueError(
                f"block {key.hex()}: payload of {data.nbytes} bytes; wanted {self.layout.block_bytes} "
                f"or, with padding, {self.layout.stride_bytes}"
            )
        digest = checksum(data, self.layout)
        with self._lock:
            offset = self._next_offset
            self._next_offset += self.layout.stride_bytes
        self._data.write_from(data, offset)
        if data.nbytes != self.layout.stride_bytes and not self._data.direct:
            self._data.write_from(bytes(self.layout.stride_bytes - data.nbytes), offset + data.nbytes)
        if self._durable == "disk":
            self._data.sync()
        location = Location(self.segment, offset, digest)
        self._append_record(pack_record(key, location, self.layout))
        return location

    def close(self) -> None:
        """Idempotent; what `append` acknowledged needs no close."""
        self._data.close()
        if self._index >= 0:
            os.close(self._index)
            self._index = -1

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append_record(self, record: bytes) -> None:
        """All of the record or nothing of it: a part would shift the records that follow."""
        with self._lock:
            try:
                written = 0
                while written < RECORD_BYTES:
                    written += os.write(self._index, record[written:])
            except OSError as error:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._index, self._index_bytes)
                raise store_error(error, self._index_path, f"append a record of {RECORD_BYTES} bytes") from error
            self._index_bytes += RECORD_BYTES
        if self._durable == "disk":
            try:
                os.fdatasync(self._index)
            except OSError as error:
                raise store_error(error, self._index_path, "sync") from error

    def _lock_segment(self) -> None:
        """One process per segment; the kernel frees the lock when that process ends, however it ends."""
        try:
            fcntl.flock(self._data.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(
                f"{self._data.path}: another process writes this segment; give each engine its own name"
            ) from error

    def _end_of_data(self) -> int:
        """Behind the file's end and behind every indexed block: where the file was truncated, a new block
        must not come to lie where an old record points."""
        indexed = records(self._index_path.read_bytes(), self.layout, self.segment)
        ends = [record[1].offset + self.layout.stride_bytes for record in indexed if record is not None]
        return max([align_up(self._data.size()), *ends])


class BlockReader:
    """Reads blocks of every segment and checks each against the checksum written with it. Thread-safe; the GIL
    is released while the device reads and while the checksum is computed. Files stay open until `close`."""

    def __init__(self, directory: Path | str, layout: StoreLayout, *, direct: bool = True) -> None:
        check_store(directory, layout)
        self.directory = Path(directory)
        self.layout = layout
        self._want_direct = direct
        self._lock = threading.Lock()
        self._files: dict[str, DirectFile] = {}

    @property
    def direct(self) -> bool | None:
        """Whether every file read so far bypasses the page cache; None where none was read."""
        return all(file.direct for file in self._files.values()) if self._files else None

    @property
    def direct_reason(self) -> str:
        """Why not; empty where it does."""
        return "; ".join(sorted({file.reason for file in self._files.values() if file.reason}))

    def read(self, key: bytes, location: Location, into: Buffer, *, path: str) -> int:
        """Reads a block into `into` and returns its checksum, equal to `location.checksum`. `into` is
        `stride_bytes` long (page-aligned: no copy) or `block_bytes`. `path` is what an error calls this read,
        e.g. "decode route, DE 1". Raises CorruptBlockError or StoreError; `into` is then undefined."""
        target = as_bytes(into)
        if target.nbytes not in (self.layout.block_bytes, self.layout.stride_bytes):
            raise ValueError(
                f"block {key.hex()}: slot of {target.nbytes} bytes; wanted {self.layout.stride_bytes} "
                f"or {self.layout.block_bytes}"
            )
        file = self._file(location.segment)
        try:
            file.read_into(target, location.offset)
        except StoreError as error:
            raise StoreError(f"block {key.hex()} on the {path}: {error}") from error
        found = checksum(target, self.layout)
        if found != location.checksum:
            raise CorruptBlockError(
                f"block {key.hex()} read on the {path} is corrupt: {file.path} at offset "
                f"{location.offset:,}: {self.layout.block_bytes:,} bytes have xxh3_64 {found:016x}, were written with "
                f"{location.checksum:016x}; "
                "delete the store and write it anew, and check the disk"
            )
        return found

    def close(self) -> None:
        """Idempotent; no read may be in flight."""
        with self._lock:
            for file in self._files.values():
                file.close()
            self._files.clear()

    def __enter__(self) -> BlockReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _file(self, segment: str) -> DirectFile:
        file = self._files.get(segment)
        if file is None:
            check_segment_name(segment)
            with self._lock:
                file = self._files.get(segment)
                if file is None:
                    file = DirectFile(self.directory / f"{segment}.seg", "read", direct=self._want_direct)
                    self._files[segment] = file
        return file


def _sync_directory(directory: Path | str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
