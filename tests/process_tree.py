"""Processes that others have started, as Linux shows them."""

from __future__ import annotations

import contextlib
from pathlib import Path


def children(of: int, named: str = "") -> list[int]:
    """Children of a process's main thread whose names begin so and that have not ended."""
    found = []
    for child in Path(f"/proc/{of}/task/{of}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            name, _, rest = Path(f"/proc/{child}/stat").read_text().partition(" (")[2].rpartition(") ")
            if name.startswith(named) and not rest.startswith("Z"):
                found.append(int(child))
    return found
