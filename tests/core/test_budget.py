"""Budgets."""

from __future__ import annotations

import pytest
from dualpath.core.budget import Budget


def test_what_is_reserved_is_no_longer_free() -> None:
    budget = Budget(10)
    budget.reserve(7)
    assert (budget.used, budget.free) == (7, 3)
    assert budget.fits(3)
    assert not budget.fits(4)
    budget.release(7)
    assert (budget.used, budget.free) == (0, 10)


def test_a_budget_can_be_filled_and_holds_nothing_at_zero() -> None:
    budget = Budget(2)
    budget.reserve(2)
    assert budget.fits(0)
    assert not budget.fits(1)
    assert Budget(0).fits(0)
    assert not Budget(0).fits(1)


def test_more_than_there_is_cannot_be_reserved_or_released() -> None:
    with pytest.raises(AssertionError, match="3 of 2"):
        Budget(2).reserve(3)
    with pytest.raises(AssertionError, match="-1 of 2"):
        Budget(2).release(1)
