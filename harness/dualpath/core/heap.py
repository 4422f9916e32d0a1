"""A binary heap of rows (a, b, c, payload), smallest (a, b, c) first: simultaneous things have one order."""

from __future__ import annotations

import numpy as np

from dualpath.core.arrays import Arrays
from dualpath.core.compiled import compiled
from dualpath.core.records import Integers, Records, records

ROW = np.dtype([("a", np.int64), ("b", np.int64), ("c", np.int64), ("payload", np.int64)])


class Heap(Arrays):
    rows: Records  # [capacity] ROW
    size: Integers  # [1]


def new_heap(capacity: int) -> Heap:
    return Heap(rows=records(ROW, capacity), size=np.zeros(1, np.int64))


def grow_heap(heap: Heap, capacity: int) -> None:
    """Make room for more rows."""
    rows = records(ROW, capacity)
    rows[: len(heap.rows)] = heap.rows
    heap.put(rows=rows)


@compiled
def put(heap: Heap, a: int, b: int, c: int, payload: int) -> None:
    """There must be room."""
    rows, place = heap.rows, heap.size[0]
    heap.size[0] = place + 1
    while place:
        above = (place - 1) // 2
        if not _less(a, b, c, rows[above]):
            break
        rows[place] = rows[above]
        place = above
    row = rows[place]
    row.a, row.b, row.c, row.payload = a, b, c, payload


@compiled
def take(heap: Heap) -> tuple[int, int, int, int]:
    """Remove the smallest row; there must be one."""
    rows = heap.rows
    top = rows[0].a, rows[0].b, rows[0].c, rows[0].payload
    size = heap.size[0] - 1
    heap.size[0] = size
    last = rows[size]
    place = 0
    while True:
        below = 2 * place + 1
        if below >= size:
            break
        if below + 1 < size and _less(rows[below + 1].a, rows[below + 1].b, rows[below + 1].c, rows[below]):
            below += 1
        if _less(last.a, last.b, last.c, rows[below]):
            break
        rows[place] = rows[below]
        place = below
    rows[place] = last
    return top


@compiled
def _less(a: int, b: int, c: int, row: Records) -> bool:
    if a != row.a:
        return a < row.a
    if b != row.b:
        return b < row.b
    return c < row.c
