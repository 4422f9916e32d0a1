"""The paper's rule of when an online run stops (section 7.2)."""

from __future__ import annotations

import math

import pytest
from dualpath.results.termination import Stop, termination

BACK = 12  # windows of 150 s in half an hour


@pytest.mark.parametrize(
    ("ttft_s", "stop"),
    [
        ([1.0, 1.5, 4.1, 9.0], Stop(2, "overloaded")),
        ([4.0, 4.0], Stop(1, "arrivals ended")),  # the limit itself is allowed
        ([1.0] * BACK + [1.04, 1.0], Stop(BACK, "steady")),
        ([1.0] * BACK + [1.06, 1.051, 1.049], Stop(BACK + 2, "steady")),
        ([1.0] * BACK + [0.94, 4.5], Stop(BACK + 1, "overloaded")),
        ([1.0] * 5, Stop(4, "arrivals ended")),  # half an hour has not passed
        ([None, *[1.0] * BACK, 2.0], Stop(BACK + 1, "arrivals ended")),  # nothing to compare the window with
        ([None], Stop(0, "arrivals ended")),
        ([0.0] * BACK + [1.0], Stop(BACK, "arrivals ended")),  # nothing is within 5 % of nothing
        ([0.0] * (BACK + 1), Stop(BACK, "steady")),  # but itself
        ([1.0 + 0.02 * k for k in range(60)], Stop(59, "arrivals ended")),  # grows by more than 5 % in half an hour
        ([3.0 + 0.01 * k for k in range(60)], Stop(12, "steady")),  # grows by less
    ],
)
def test_termination(ttft_s: list[float | None], stop: Stop) -> None:
    assert termination(ttft_s) == stop


def test_a_stop_is_the_end_of_its_window() -> None:
    assert (Stop(12, "steady").start_s, Stop(12, "steady").end_s) == (1800, 1950)


def test_with_other_windows_what_is_compared_lies_as_many_windows_back() -> None:
    steady = termination([9.0] * (BACK + 1), limit_s=math.inf, window_s=2.5)
    assert (steady.reason, steady.start_s, steady.end_s) == ("steady", 30.0, 32.5)
    assert termination([9.0] * BACK, limit_s=10.0) == Stop(BACK - 1, "arrivals ended")
