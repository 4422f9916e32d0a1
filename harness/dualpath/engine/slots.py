"""Naming the blocks of a memory whose free space the scheduler counts."""

from __future__ import annotations

import heapq


class Slots:
    """Free slots of one memory. Lowest first, so that a request's slots are consecutive where they can be."""

    def __init__(self, capacity: int) -> None:
        self._free = list(range(capacity))
        self._taken: dict[int, list[int]] = {}

    def take(self, owner: int, num: int) -> list[int]:
        """Slots for a request, ascending."""
        assert owner not in self._taken, f"request {owner} has slots already"
        assert num <= len(self._free), "the scheduler counts the blocks of this memory"
        slots = [heapq.heappop(self._free) for _ in range(num)]
        self._taken[owner] = slots
        return slots

    def of(self, owner: int) -> list[int]:
        return self._taken[owner]

    def give_back(self, owner: int) -> None:
        for slot in self._taken.pop(owner):
            heapq.heappush(self._free, slot)
