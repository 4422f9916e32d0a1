"""Registered memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Memory:
    """A registered region. `handle` must live as long as it is used."""

    address: int  # as work requests name it
    num_bytes: int
    local_key: int
    remote_key: int
    is_shared: bool  # with peers
    handle: Any
