"""A segment's index: fixed-size records, one per acknowledged block, and how a store is found again after a crash."""

from __future__ import annotations

import logging
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dualpath.core.errors import StoreError
from dualpath.engine.direct_io import store_error
from dualpath.engine.store_layout import StoreLayout, check_store

KEY_BYTES = 16

_FIELDS = struct.Struct("<16sQQI")  # key, offset, checksum, block_bytes
_CRC = struct.Struct("<I")
RECORD_BYTES = _FIELDS.size + _CRC.size
_SEGMENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Location:
    """Where a block is, and the xxh3_64 of its bytes as they were written."""

    segment: str
    offset: int
    checksum: int


def pack_record(key: bytes, location: Location, layout: StoreLayout) -> bytes:
    """One index record, `RECORD_BYTES` long."""
    fields = _FIELDS.pack(key, location.offset, location.checksum, layout.block_bytes)
    return fields + _CRC.pack(zlib.crc32(fields))


def records(raw: bytes, layout: StoreLayout, segment: str) -> Iterator[tuple[bytes, Location] | None]:
    """The whole records of an index, None for a damaged one; what is left over is a record being written."""
    for start in range(0, len(raw) // RECORD_BYTES * RECORD_BYTES, RECORD_BYTES):
        key, offset, digest, block_bytes = _FIELDS.unpack_from(raw, start)
        (crc,) = _CRC.unpack_from(raw, start + _FIELDS.size)
        is_whole = crc == zlib.crc32(raw[start : start + _FIELDS.size]) and block_bytes == layout.block_bytes
        yield (key, Location(segment, offset, digest)) if is_whole else None


def scan(directory: Path | str, layout: StoreLayout) -> dict[bytes, Location]:
    """Every acknowledged block of a store, by key; after a crash too. Records that are damaged, or whose data the
    file does not hold, are left out and counted in the log. Of a key written twice, the last record counts,
    segments taken by name."""
    check_store(directory, layout)
    found: dict[bytes, Location] = {}
    try:
        indexes = sorted(Path(directory).glob("*.idx"))
    except OSError as error:
        raise store_error(error, directory, "list the store") from error
    for index in indexes:
        found.update(_scan_segment(index, layout))
    return found


def _scan_segment(index: Path, layout: StoreLayout) -> dict[bytes, Location]:
    data = index.with_suffix(".seg")
    try:
        raw = index.read_bytes()
        data_bytes = data.stat().st_size if data.exists() else 0
    except OSError as error:
        raise store_error(error, index, "read the index") from error
    found: dict[bytes, Location] = {}
    num_damaged = num_cut = 0
    for record in records(raw, layout, index.stem):
        if record is None:
            num_damaged += 1
        elif record[1].offset + layout.stride_bytes > data_bytes:
            num_cut += 1
        else:
            found[record[0]] = record[1]
    if num_damaged or num_cut:
        _log.warning(
            "%s: left out %d damaged records and %d that point past the end of their segment",
            index,
            num_damaged,
            num_cut,
        )
    return found


def check_segment_name(name: str) -> None:
    if not _SEGMENT_NAME.fullmatch(name):
        raise StoreError(f"segment name {name!r}: use letters, digits, '_', '.' and '-' only (it becomes a file name)")
