"""Which subject has the least value, while values change: a binary heap that knows where each subject stands in it.

least.heap[0]            the subject with the least value, the lowest number of several
least.values[subject]    its value
"""

from __future__ import annotations

import numpy as np

from dualpath.core.arrays import Arrays
from dualpath.core.compiled import compiled
from dualpath.core.records import Integers

NEVER = np.iinfo(np.int64).max  # as a time: a subject that waits for none


class Least(Arrays):
    values: Integers  # [num_subjects]
    heap: Integers  # [num_subjects] subjects, smallest (value, subject) first
    place: Integers  # [num_subjects] of each subject in the heap


def new_least(num_subjects: int, value: int) -> Least:
    """All subjects have the same value."""
    return Least(
        values=np.full(num_subjects, value, np.int64), heap=np.arange(num_subjects), place=np.arange(num_subjects)
    )


@compiled
def set_value(least: Least, subject: int, value: int) -> None:
    least.values[subject] = value
    heap, place = least.heap, least.place[subject]
    while place and _less(least, subject, heap[(place - 1) // 2]):
        place = _move(least, heap[(place - 1) // 2], place, (place - 1) // 2)
    while True:
        below = 2 * place + 1
        if below >= len(heap):
            break
        if below + 1 < len(heap) and _less(least, heap[below + 1], heap[below]):
            below += 1
        if not _less(least, heap[below], subject):
            break
        place = _move(least, heap[below], place, below)
    heap[place], least.place[subject] = subject, place


@compiled
def _move(least: Least, subject: int, to: int, freed: int) -> int:
    least.heap[to], least.place[subject] = subject, to
    return freed


@compiled
def _less(least: Least, a: int, b: int) -> bool:
    if least.values[a] != least.values[b]:
        return least.values[a] < least.values[b]
    return a < b
