"""Counting: bytes and busy time of every link, in time buckets."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any

from dualpath.core.hops import Charge

BUCKET_NS = 100_000_000


class Meter:
    """Adds charges; thread-safe. One per process, merged by summing rows."""

    def __init__(self, bucket_ns: int = BUCKET_NS) -> None:
        self._bucket_ns = bucket_ns
        self._lock = threading.Lock()
        self._cells: defaultdict[tuple[Charge, str, int], list[int]] = defaultdict(lambda: [0, 0])

    def add(self, charge: Charge, lane: str, num_bytes: int, start_ns: int, end_ns: int, paced: bool) -> None:
        """A transfer that occupied [start_ns, end_ns). Its bytes are spread over buckets in proportion, exactly in
        sum. An unpaced link has no known busy time: 0."""
        with self._lock:
            for bucket, share, busy_ns in spread(num_bytes, start_ns, end_ns, self._bucket_ns):
                cell = self._cells[charge, lane, bucket]
                cell[0] += share
                cell[1] += busy_ns if paced else 0

    def rows(self) -> list[dict[str, Any]]:
        """Rows of the `links` table."""
        with self._lock:
            return [
                {
                    **charge._asdict(),
                    "lane": lane,
                    "bucket_ns": bucket * self._bucket_ns,
                    "bytes": num_bytes,
                    "busy_ns": busy_ns,
                }
                for (charge, lane, bucket), (num_bytes, busy_ns) in self._cells.items()
            ]


def spread(num_bytes: int, start_ns: int, end_ns: int, bucket_ns: int) -> list[tuple[int, int, int]]:
    """(bucket index, bytes, ns) of a transfer. Bytes add up to num_bytes, ns to end_ns - start_ns."""
    first, last = start_ns // bucket_ns, max(start_ns, end_ns - 1) // bucket_ns
    if first == last:
        return [(first, num_bytes, end_ns - start_ns)]
    shares: list[tuple[int, int, int]] = []
    given = 0
    for bucket in range(first, last + 1):
        upto_ns = min(end_ns, (bucket + 1) * bucket_ns)
        from_ns = max(start_ns, bucket * bucket_ns)
        upto_bytes = num_bytes * (upto_ns - start_ns) // (end_ns - start_ns)
        shares.append((bucket, upto_bytes - given, upto_ns - from_ns))
        given = upto_bytes
    return shares
