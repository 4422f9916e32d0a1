"""One launch copies many pieces between memories that a GPU reaches: its own, and pinned host memory.

A copy call per Layer Block costs the processor 4 to 7 us, more than its bytes take (the paper's argument for going
through a NIC instead, its section 4). Here a few blocks of threads read and write over PCIe themselves, and the
processor submits once.
"""

from __future__ import annotations

import triton  # type: ignore[import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, unused-ignore]

_LANES = 2048
_WARPS = 8
PROGRAMS = 16  # blocks of threads: enough for PCIe at 50 KB a piece, and an eighth of a GPU


@triton.jit(do_not_specialize=["num"])  # type: ignore[untyped-decorator, unused-ignore]
def _copy(table, source, target, num, WORD: tl.constexpr, LANES: tl.constexpr):  # type: ignore[no-untyped-def]
    """table: [num, 3] int64: offset in target, offset in source, words."""
    lanes = tl.arange(0, LANES)
    piece = tl.program_id(0)
    while piece < num:
        read = (source + tl.load(table + 3 * piece + 1)).to(tl.pointer_type(WORD))
        write = (target + tl.load(table + 3 * piece)).to(tl.pointer_type(WORD))
        words = tl.load(table + 3 * piece + 2)
        first = words * 0
        while first < words:
            inside = first + lanes < words
            tl.store(write + first + lanes, tl.load(read + first + lanes, mask=inside), mask=inside)
            first += LANES
        piece += tl.num_programs(0)


_WORDS = {8: tl.int64, 4: tl.int32, 1: tl.int8}


def launch(table: object, source: int, target: int, num: int, word_bytes: int, programs: int = PROGRAMS) -> None:
    """On the current stream. table: on the GPU; source, target: addresses; word_bytes: 8, 4 or 1, divides offsets."""
    _copy[(min(programs, num),)](table, source, target, num, WORD=_WORDS[word_bytes], LANES=_LANES, num_warps=_WARPS)
