"""A memory that is counted in blocks and can run out."""

from __future__ import annotations


class Budget:
    """Blocks of one memory. `used` never exceeds `capacity`, and what is released was reserved."""

    __slots__ = ("capacity", "used")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0

    @property
    def free(self) -> int:
        return self.capacity - self.used

    def fits(self, blocks: int) -> bool:
        return self.used + blocks <= self.capacity

    def reserve(self, blocks: int) -> None:
        self.used += blocks
        self.check()

    def release(self, blocks: int) -> None:
        self.used -= blocks
        self.check()

    def check(self) -> None:
        assert 0 <= self.used <= self.capacity, f"{self.used} of {self.capacity} blocks in use"
