"""Counting the instructions of a piece of Python under valgrind's callgrind, from within.

Under valgrind a certain sequence of instructions, which does nothing elsewhere, is a request to it (valgrind.h, "client
requests"): here it is called as a function that ctypes finds in memory. So all that comes before, imports and
compilation, runs uncounted and nearly ten times as fast.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import re
from collections.abc import Callable
from pathlib import Path

from dualpath.core.errors import RunError

# uint64_t request(uint64_t *arguments, uint64_t otherwise): the answer, or `otherwise` where valgrind does not run
_CODE = bytes.fromhex(
    "4889f8"  # mov rax, rdi
    "4889f2"  # mov rdx, rsi
    "48c1c703 48c1c70d 48c1c73d 48c1c733"  # rol rdi, 3, 13, 61, 51: 128 in all
    "4887db"  # xchg rbx, rbx
    "4889d0"  # mov rax, rdx
    "c3"  # ret
)
_TOOL = ord("C") << 24 | ord("T") << 16
_DUMP, _ZERO, _START, _STOP = _TOOL, _TOOL + 1, _TOOL + 4, _TOOL + 5
_TOTALS = re.compile(r"^(?:totals|summary): (\d+)", re.MULTILINE)


class Callgrind:
    """dumps: the file that --callgrind-out-file names; each count makes one beside it."""

    def __init__(self, dumps: Path) -> None:
        if platform.machine() not in ("x86_64", "AMD64"):
            raise RunError(f"instructions are counted on x86-64 only; this is {platform.machine()}")
        self._dumps = dumps
        self._page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._page.write(_CODE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        kind = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint64), ctypes.c_uint64)
        self._request = kind(address)

    def count(self, work: Callable[[], object]) -> int:
        """Instructions of all threads, in user space. Raises RunError where none were counted."""
        before = set(self._files())
        self._ask(_START)
        self._ask(_ZERO)
        work()
        self._ask(_DUMP)
        self._ask(_STOP)
        dumped = sorted(set(self._files()) - before)
        found = _TOTALS.search(dumped[0].read_text(errors="replace")) if dumped else None
        if found is None:
            raise RunError(f"{self._dumps}: callgrind left no count beside it")
        return int(found[1])

    def _files(self) -> list[Path]:
        return list(self._dumps.parent.glob(f"{self._dumps.name}.*"))

    def _ask(self, request: int) -> int:
        return int(self._request((ctypes.c_uint64 * 6)(request), 0))
