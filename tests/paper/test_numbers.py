"""Verdicts and statistics of numbers."""

from __future__ import annotations

import math

import pytest
from dualpath.paper.numbers import Number, belief_of, numbers_table, percentile, spread_check


def a_number(ours: float | None, **more: object) -> Number:
    return Number("paper.x", "x", ours, 100.0, 0.1, **more)  # type: ignore[arg-type] # fields of Number


@pytest.mark.parametrize(
    ("ours", "verdict", "error"),
    [(109.0, "met", 0.09), (111.0, "missed", 0.11), (89.0, "missed", -0.11), (None, "not run", None)],
)
def test_verdicts(ours: float | None, verdict: str, error: float | None) -> None:
    number = a_number(ours)
    assert number.verdict == verdict
    assert number.error == (None if error is None else pytest.approx(error))
    assert number.as_check().passed == (verdict == "met")


def test_shares_are_judged_by_their_difference() -> None:
    share = Number("paper.x", "x", 8.0, 0.0, 10.0, unit="points", scale="points")
    assert (share.error, share.verdict) == (8.0, "met")
    assert not share.is_prediction


def test_a_number_that_was_not_run_says_why() -> None:
    check = a_number(None, note="run missing: a/b").as_check()
    assert (check.passed, check.value, check.note) == (False, None, "run missing: a/b")
    assert a_number(None).as_check().note == "run missing"


def test_fits_are_no_predictions_and_say_so() -> None:
    fit = a_number(101.0, is_fit=True)
    assert not fit.is_prediction
    assert "fit" in fit.as_check().note
    assert a_number(101.0).is_prediction


def test_the_belief_is_told_of_a_number_missed_only() -> None:
    assert "because" in a_number(150.0, belief="because").as_check().note
    assert "because" not in a_number(100.0, belief="because").as_check().note


def test_the_longest_belief_that_fits() -> None:
    beliefs = {"paper.fig7": "all", "paper.fig7.ds27b": "some"}
    assert belief_of("paper.fig7.ds27b.64k", beliefs) == "some"
    assert belief_of("paper.fig7.ds27bx", beliefs) == "all"
    assert belief_of("paper.fig70", beliefs) == ""


@pytest.mark.parametrize(("share", "value"), [(0.5, 5), (0.9, 9), (0.91, 10), (1.0, 10), (0.0, 1)])
def test_percentiles_are_values_of_the_list(share: float, value: int) -> None:
    assert percentile(list(range(10, 0, -1)), share) == value
    assert percentile([], share) is None


def test_a_spread_is_over_all_numbers_or_fails() -> None:
    numbers = [a_number(100.0 + k) for k in range(1, 10)]
    assert spread_check("id", "what", numbers, 0.5, 0.051).passed
    assert not spread_check("id", "what", numbers, 0.9, 0.05).passed
    one_missing = spread_check("id", "what", [*numbers, a_number(None)], 0.5, 0.05)
    assert (one_missing.passed, one_missing.value) == (False, None)
    assert "1 of 10" in one_missing.note


def test_the_table_shows_what_is_there() -> None:
    numbers = [a_number(105.0), a_number(None, note="run missing: a"), a_number(math.inf), a_number(0.0)]
    rows = numbers_table("all", numbers).rows
    assert [row[6] for row in rows] == ["✓ met", "✗ not run", "✗ missed", "✗ missed"]
    assert rows[0][4] == "+5.0%"
    assert rows[1][7] == "run missing: a"
