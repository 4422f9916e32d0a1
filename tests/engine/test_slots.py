"""Slots are given once, lowest first, and come back."""

from __future__ import annotations

import pytest
from dualpath.engine.slots import Slots
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.integers(1, 5), max_size=30), st.randoms(use_true_random=False))
def test_no_slot_has_two_owners(sizes: list[int], random: object) -> None:
    slots = Slots(20)
    held: dict[int, list[int]] = {}
    for owner, size in enumerate(sizes):
        while size > 20 - sum(map(len, held.values())):
            gone = random.choice(sorted(held))  # type: ignore[attr-defined]
            assert slots.of(gone) == held.pop(gone)
            slots.give_back(gone)
        held[owner] = slots.take(owner, size)
        assert held[owner] == sorted(held[owner])
        taken = [slot for mine in held.values() for slot in mine]
        assert len(taken) == len(set(taken))
        assert set(taken) <= set(range(20))


def test_taking_more_than_is_free_is_our_own_mistake() -> None:
    slots = Slots(2)
    with pytest.raises(AssertionError):
        slots.take(0, 3)
