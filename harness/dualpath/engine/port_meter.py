"""What a NIC's port has carried by the NIC's own count, beside what the engines count: rows of the `links` table.

A port's counters are everybody's: headers, retransmissions and other programs are in them. So they say whether the
engine's counts can be right, not whether they are.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from dualpath.engine.messages import LinkRow
from dualpath.engine.meter import BUCKET_NS

_SYSFS = Path("/sys/class/infiniband")
_WORD_BYTES = 4  # the counters of InfiniBand and RoCE alike count these
_DIRECTIONS = {"read": "port_xmit_data", "write": "port_rcv_data"}  # as the host sees it: what is sent, a NIC reads


class PortMeter:
    """One port's, sampled by one engine of each host. node: that engine's."""

    def __init__(self, device: str, port: int, node: int, sysfs: Path = _SYSFS) -> None:
        self._files = {
            direction: sysfs / device / "ports" / str(port) / "counters" / name
            for direction, name in _DIRECTIONS.items()
        }
        self._node = node
        self._last = self._read()
        self._rows: list[LinkRow] = []
        self._lock = threading.Lock()
        self._zero_ns = 0

    @property
    def is_counted(self) -> bool:
        """Software devices count nothing."""
        return self._last is not None

    def _read(self) -> dict[str, int] | None:
        try:
            return {direction: int(path.read_text()) * _WORD_BYTES for direction, path in self._files.items()}
        except (OSError, ValueError):
            return None

    def run(self, zero_ns: int) -> None:
        """Sample for ever. zero_ns: CLOCK_MONOTONIC at the run's time 0."""
        self._zero_ns = zero_ns
        while self.is_counted:
            time.sleep(BUCKET_NS / 1e9)
            self.sample()

    def sample(self) -> None:
        """Book what has passed since the last sample."""
        with self._lock:
            now = self._read()
            if now is None or self._last is None:
                return
            bucket_ns = max(0, time.monotonic_ns() - self._zero_ns) // BUCKET_NS * BUCKET_NS
            for direction, num_bytes in now.items():
                if passed := num_bytes - self._last[direction]:
                    self._rows.append(LinkRow("port", self._node, None, direction, "all", "all", bucket_ns, passed, 0))
            self._last = now

    def rows(self) -> list[LinkRow]:
        """All, to the last byte."""
        self.sample()
        return list(self._rows)
