"""Huge pages, where the system has some: NICs, disks and GPUs take memory by the page."""

from __future__ import annotations

import contextlib
import mmap


def in_huge_pages(memory: mmap.mmap) -> mmap.mmap:
    """Ask for them; a system that has none says no, and nothing is lost."""
    with contextlib.suppress(OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
