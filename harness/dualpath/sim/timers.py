"""One timer per subject, the earliest first: a binary heap that knows where each subject stands in it."""

from __future__ import annotations

import numpy as np

from dualpath.core.arrays import Arrays
from dualpath.core.compiled import compiled
from dualpath.core.records import Integers

NEVER = np.iinfo(np.int64).max


class Timers(Arrays):
    at_ns: Integers  # [num_subjects]
    heap: Integers  # [num_subjects] subjects, smallest (at_ns, subject) first
    place: Integers  # [num_subjects] of each subject in the heap


def new_timers(num_subjects: int) -> Timers:
    return Timers(
        at_ns=np.full(num_subjects, NEVER, np.int64), heap=np.arange(num_subjects), place=np.arange(num_subjects)
    )


@compiled
def set_timer(timers: Timers, subject: int, at_ns: int) -> None:
    timers.at_ns[subject] = at_ns
    heap, place = timers.heap, timers.place[subject]
    while place and _sooner(timers, subject, heap[(place - 1) // 2]):
        place = _move(timers, heap[(place - 1) // 2], place, (place - 1) // 2)
    while True:
        below = 2 * place + 1
        if below >= len(heap):
            break
        if below + 1 < len(heap) and _sooner(timers, heap[below + 1], heap[below]):
            below += 1
        if not _sooner(timers, heap[below], subject):
            break
        place = _move(timers, heap[below], place, below)
    heap[place], timers.place[subject] = subject, place


@compiled
def _move(timers: Timers, subject: int, to: int, freed: int) -> int:
    timers.heap[to], timers.place[subject] = subject, to
    return freed


@compiled
def _sooner(timers: Timers, a: int, b: int) -> bool:
    if timers.at_ns[a] != timers.at_ns[b]:
        return timers.at_ns[a] < timers.at_ns[b]
    return a < b
