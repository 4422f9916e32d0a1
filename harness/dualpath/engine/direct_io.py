"""Files read and written past the page cache (O_DIRECT), with the fallback made visible.

O_DIRECT wants the memory address, the file offset and the length aligned; 4096 satisfies every file system
met so far. Memory that is not aligned is copied through a bounce buffer: correct, slower by one memcpy. Where
a file system refuses O_DIRECT, or keeps its files in memory anyway (tmpfs), the file is opened buffered, pages
are dropped after use, and `DirectFile.direct` is False with the reason beside it. Not aware of blocks or rates.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shutil
import threading
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from dualpath.core.errors import StoreError

ALIGNMENT = 4096

Buffer: TypeAlias = memoryview | mmap.mmap | bytes | bytearray | npt.NDArray[np.uint8]

_MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs", "devtmpfs")
_HINTS = {
    errno.ENOSPC: "the disk is full: free space, or choose another storage directory",
    errno.EDQUOT: "the disk quota is used up: raise it, or choose another storage directory",
    errno.EFBIG: "the file size limit is reached: raise it (ulimit -f)",
    errno.EROFS: "the file system is read-only: choose a storage directory that can be written",
    errno.EACCES: "permission denied: choose a storage directory of your own, or change its mode",
    errno.EPERM: "not permitted: choose a storage directory of your own, or change its mode",
    errno.EIO: "the device reports an error: check the disk (dmesg), or choose another storage directory",
    errno.ENOENT: "there is no such file: check the storage directory",
    errno.ENOTDIR: "a part of the path is a file: check the storage directory",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n)",
    errno.EINVAL: f"the file system wants more than {ALIGNMENT}-byte alignment: open with direct=False",
}


def as_bytes(view: Buffer) -> memoryview:
    """The same memory as a flat view of bytes, whatever its shape and item type were."""
    return memoryview(cast("bytes", view)).cast("B")  # numpy declares its arrays as buffers from 3.12 on only


def align_up(num_bytes: int) -> int:
    """`num_bytes` rounded up to whole pages."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


def aligned_buffer(num_bytes: int) -> memoryview:
    """Private, zeroed, page-aligned memory of whole pages, at least `num_bytes` of them."""
    return memoryview(mmap.mmap(-1, max(align_up(num_bytes), ALIGNMENT), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def is_aligned(view: Buffer) -> bool:
    """Whether O_DIRECT takes this memory as it is: first byte and length on page boundaries."""
    array = np.frombuffer(view, np.uint8)
    return array.nbytes % ALIGNMENT == 0 and array.__array_interface__["data"][0] % ALIGNMENT == 0


def filesystem_of(path: Path | str, mounts: Path | str = "/proc/mounts") -> str:
    """Type of the file system holding `path` (ext4, xfs, tmpfs, ...); "unknown" where none can be told."""
    found, found_at = "unknown", -1
    target = Path(path).absolute().resolve()
    try:
        lines = Path(mounts).read_text(errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        fields = line.split()
        if len(fields) < 3:
            continue
        # the kernel writes blanks in a mount point as octal escapes
        mount_point = Path(fields[1].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
        # the later of two mounts on one point hides the earlier
        if len(mount_point.parts) >= found_at and (mount_point == target or mount_point in target.parents):
            found, found_at = fields[2], len(mount_point.parts)
    return found


def store_error(error: OSError, path: Path | str, doing: str) -> StoreError:
    """A StoreError that names the file, what was tried, the system's words and the knob to turn."""
    hint = _HINTS.get(error.errno or 0, "check the storage directory")
    space = ""
    if error.errno == errno.ENOSPC:
        with contextlib.suppress(OSError):
            space = f" ({shutil.disk_usage(Path(path).parent).free:,} bytes free)"
    name = errno.errorcode.get(error.errno or 0, "unknown error")
    return StoreError(f"{path}: cannot {doing}: {error.strerror} [{name}]{space}; {hint}")


class DirectFile:
    """One open file; offsets on page boundaries. Thread-safe; releases the GIL while the device works."""

    def __init__(self, path: Path | str, mode: Literal["read", "write"], *, direct: bool = True) -> None:
        """`read`: an existing file, read only. `write`: read and write, created where absent.
        `direct=False` asks for the buffered fallback. Raises StoreError."""
        self.path = Path(path)
        self.direct = direct
        self.reason = None if direct else "asked for buffered access"  # why not direct
        self._bounce = threading.local()
        flags = os.O_RDONLY if mode == "read" else os.O_RDWR | os.O_CREAT
        if direct:
            kind = filesystem_of(self.path.parent)
            if kind in _MEMORY_FILE_SYSTEMS:
                self.direct, self.reason = (
                    False,
                    f"{kind} keeps its files in memory: there is no device to read",
                )
        try:
            try:
                self.fd = os.open(path, flags | os.O_CLOEXEC | (os.O_DIRECT if self.direct else 0), 0o644)
            except OSError as error:
                if not self.direct or error.errno != errno.EINVAL:
                    raise
                self.direct, self.reason = False, f"{kind} refuses O_DIRECT"
                self.fd = os.open(path, flags | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise store_error(error, path, f"open to {mode}") from error

    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def read_into(self, view: Buffer, offset: int) -> None:
        """Fills `view` from `offset`. Raises StoreError, also where the file ends too early."""
        target = as_bytes(view)
        if self.direct and not is_aligned(target):
            bounce = self._bounce_buffer(target.nbytes)
            self._read_all(bounce, offset, wanted=target.nbytes)
            target[:] = bounce[: target.nbytes]
            return
        if not self.direct:  # pages a writer left behind must not serve this read
            os.posix_fadvise(self.fd, offset, target.nbytes, os.POSIX_FADV_DONTNEED)
        self._read_all(target, offset, wanted=target.nbytes)
        if not self.direct:
            os.posix_fadvise(self.fd, offset, target.nbytes, os.POSIX_FADV_DONTNEED)

    def write_from(self, view: Buffer, offset: int) -> None:
        """Writes all of `view` at `offset`; the last page is padded with zeros. Raises StoreError."""
        source = as_bytes(view)
        if self.direct and not is_aligned(source):
            bounce = self._bounce_buffer(source.nbytes)
            bounce[: source.nbytes] = source
            bounce[source.nbytes :] = bytes(bounce.nbytes - source.nbytes)
            source = bounce
        done = 0
        try:
            while done < source.nbytes:
                done += os.pwritev(self.fd, [source[done:]], offset + done)
        except OSError as error:
            raise store_error(error, self.path, f"write {source.nbytes:,} bytes at offset {offset:,}") from error
        if not self.direct:  # starts the write-back; clean pages are dropped
            os.posix_fadvise(self.fd, offset, source.nbytes, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        """Asks the device to keep what was written (fdatasync)."""
        try:
            os.fdatasync(self.fd)
        except OSError as error:
            raise store_error(error, self.path, "sync") from error

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> DirectFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_all(self, target: memoryview, offset: int, *, wanted: int) -> None:
        done = 0
        try:
            while done < wanted:
                got = os.preadv(self.fd, [target[done:]], offset + done)
                if got == 0 or (self.direct and done + got < wanted and got % ALIGNMENT):
                    raise StoreError(
                        f"{self.path}: {wanted:,} bytes wanted at offset {offset:,}, "
                        f"but the file ends at {self.size():,}: it was truncated; write the store anew"
                    )
                done += got
        except OSError as error:
            raise store_error(error, self.path, f"read {wanted:,} bytes at offset {offset:,}") from error

    def _bounce_buffer(self, num_bytes: int) -> memoryview:
        """This thread's aligned scratch memory, whole pages, at least `num_bytes` long."""
        have: memoryview | None = getattr(self._bounce, "view", None)
        if have is None or have.nbytes < num_bytes:
            have = aligned_buffer(num_bytes)
            self._bounce.view = have
        return have[: align_up(num_bytes)]
