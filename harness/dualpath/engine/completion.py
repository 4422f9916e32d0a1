"""When bytes have moved."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Completion(Protocol):
    def wait(self) -> int:
        """Block until the bytes have arrived; returns how many did. Raises WorkerError where they cannot."""


class Done(NamedTuple):
    """Bytes that have moved already."""

    num_bytes: int

    def wait(self) -> int:
        return self.num_bytes
