from __future__ import annotations

from dualpath.core.trajectory import Trajectory, Turn
from dualpath.trace.gaps import with_gaps

LONG = Trajectory("x", tuple(Turn(8, 2, gap_ns=7) for _ in range(2000)))


def test_gaps_have_the_mean_asked_for_and_are_the_same_in_every_run() -> None:
    first, *others = with_gaps(LONG, 5.0, 3).turns
    assert first.gap_ns == 7, "a first turn waits for nobody"
    assert 4.7e9 < sum(turn.gap_ns for turn in others) / len(others) < 5.3e9
    assert with_gaps(LONG, 5.0, 3).turns == (first, *others)
    assert with_gaps(LONG, 5.0, 4).turns != (first, *others)


def test_without_they_stay_as_recorded() -> None:
    assert with_gaps(LONG, 0.0, 3) is LONG
