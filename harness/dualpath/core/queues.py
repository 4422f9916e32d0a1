"""First-in first-out queues of small integers (flights), linked through an array: no allocation, any number of them.

`queues` is an array of QUEUE records, `after[item]` the item behind `item`. An item is in at most one of the queues
that share an `after`.
"""

from __future__ import annotations

import numpy as np

from dualpath.core.compiled import compiled
from dualpath.core.records import Integers, Records

QUEUE = np.dtype([("head", np.int64), ("tail", np.int64), ("length", np.int64)])
NONE = -1


@compiled
def push(queues: Records, queue: int, after: Integers, item: int) -> None:
    after[item] = NONE
    if queues[queue].length == 0:
        queues[queue].head = item
    else:
        after[queues[queue].tail] = item
    queues[queue].tail = item
    queues[queue].length += 1


@compiled
def pop(queues: Records, queue: int, after: Integers) -> int:
    """Take the head; the queue must not be empty."""
    item = queues[queue].head
    queues[queue].head = after[item]
    queues[queue].length -= 1
    return item


@compiled
def insert(queues: Records, queue: int, after: Integers, item: int, before: int) -> None:
    """Put an item behind `before` (NONE: at the head)."""
    if before == queues[queue].tail or queues[queue].length == 0:
        push(queues, queue, after, item)
        return
    if before == NONE:
        after[item] = queues[queue].head
        queues[queue].head = item
    else:
        after[item] = after[before]
        after[before] = item
    queues[queue].length += 1
