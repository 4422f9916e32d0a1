"""Linked queues against lists."""

from __future__ import annotations

import random

import books
import numpy as np
from dualpath.core.queues import NONE, QUEUE, insert, pop, push
from dualpath.core.records import records
from hypothesis import given, settings
from hypothesis import strategies as st

NUM_QUEUES, NUM_ITEMS = 3, 7


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.integers(1, 60))
def test_queues_that_share_their_links_are_lists(seed: int, steps: int) -> None:
    rng = random.Random(seed)
    queues, after = records(QUEUE, NUM_QUEUES), np.full(NUM_ITEMS, NONE, np.int64)
    lists: list[list[int]] = [[] for _ in range(NUM_QUEUES)]
    free = list(range(NUM_ITEMS))
    for _ in range(steps):
        queue = rng.randrange(NUM_QUEUES)
        if lists[queue] and (not free or rng.random() < 0.4):
            item = lists[queue].pop(0)
            assert pop(queues, queue, after) == item
            free.append(item)
        elif free:
            item, place = free.pop(rng.randrange(len(free))), rng.randint(0, len(lists[queue]))
            if rng.random() < 0.5:
                place = len(lists[queue])
                push(queues, queue, after, item)
            else:
                insert(queues, queue, after, item, lists[queue][place - 1] if place else NONE)
            lists[queue].insert(place, item)
        assert [books.members(queues, queue, after) for queue in range(NUM_QUEUES)] == lists
