from __future__ import annotations

from pathlib import Path

import numpy as np
from dualpath.results.reuse import NEVER, Reuse, distances_of, reuse
from dualpath.results.run import Run
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import S, turn, write_run

TOUCHES = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), max_size=40)


@settings(deadline=None)  # the first one compiles
@given(TOUCHES, st.integers(1, 40))
def test_a_touch_is_a_hit_of_every_cache_at_least_as_large_as_its_distance(
    touches: list[tuple[int, int]], capacity: int
) -> None:
    """Against a list kept in order of use: whole trajectories are in it or not."""
    distances = distances_of(
        *(np.array(column, np.int64) for column in ([n for n, _ in touches], [s for _, s in touches]))
    )
    recent: list[tuple[int, int]] = []  # most recently used first
    for (number, size), distance in zip(touches, distances.tolist(), strict=True):
        place = next((place for place, (other, _) in enumerate(recent) if other == number), None)
        needs = NEVER if place is None else sum(each for _, each in recent[: place + 1])
        assert (distance <= capacity) == (needs <= capacity)
        recent = [(number, size), *(pair for pair in recent if pair[0] != number)]


def test_of_a_run(tmp_path: Path) -> None:
    """Two trajectories in turn, 131 tokens each after a turn: the cache must hold both."""
    rows = [
        turn(name, k, (2 * k + place) * S, (2 * k + place) * S + S // 2)
        for k in range(3)
        for place, name in enumerate("xy")
    ]
    found = reuse(Run.load(write_run(tmp_path / "run", rows)), 0, 100 * S)
    assert found.hit_tokens.tolist() == [64] * 4
    assert found.distance_tokens.tolist() == [262] * 4
    assert (found.saved(261), found.saved(262)) == (0.0, 1.0)
    late = reuse(Run.load(tmp_path / "run"), 4 * S, 100 * S)
    assert late.hit_tokens.tolist() == [64] * 2, "earlier turns only fill the cache"


def test_nothing_hits() -> None:
    assert Reuse(np.zeros(0, np.int64), np.zeros(0, np.int64)).saved(1e9) == 0.0
