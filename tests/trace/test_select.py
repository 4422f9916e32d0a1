from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from typing import Any

import pytest
from dualpath.core.errors import TraceError
from dualpath.core.trajectory import Trajectory, Turn
from dualpath.trace.reader import TraceFile
from dualpath.trace.select import select as families_of
from dualpath.trace.tokens import TokenStream

SHORT = (Turn(100, 10), Turn(20, 10), Turn(20, 10, keep_tokens=50))
LONG = (Turn(900, 10), Turn(20, 10))


def select(*args: Any, **options: Any) -> list[Trajectory]:
    """All families in a row."""
    return list(chain.from_iterable(families_of(*args, **options)))


def _ids(trajectories: list[Trajectory]) -> list[str]:
    return [trajectory.id for trajectory in trajectories]


def test_families_are_read_as_they_are_asked_for(write, monkeypatch) -> None:
    path = write([Trajectory(f"a{number}", SHORT) for number in range(50)])
    with TraceFile.open(path) as trace:
        read: list[str] = []
        whole = trace.trajectories

        def counted() -> Iterator[Trajectory]:
            for trajectory in whole():
                read.append(trajectory.id)
                yield trajectory

        monkeypatch.setattr(trace, "trajectories", counted)
        families = families_of(trace, 40, 1)
        assert [next(families)[0].id for _ in range(3)] == ["a0", "a1", "a2"]
        assert len(read) == 4, "one more, to see that the family is complete"


def test_without_a_number_the_whole_file(write) -> None:
    with TraceFile.open(write([Trajectory(name, SHORT) for name in "abc"])) as trace:
        assert _ids(select(trace, None, 1)) == ["a", "b", "c"]


def test_first_in_file_order_and_children_come_along(write) -> None:
    path = write(
        [
            Trajectory("a", SHORT),
            Trajectory("a/sub", SHORT, "a", 1),
            Trajectory("a/late", SHORT, "a", 2),
            Trajectory("b", LONG),
            Trajectory("c", SHORT),
            Trajectory("d", SHORT),
        ]
    )
    with TraceFile.open(path) as trace:
        assert _ids(select(trace, 2, 1)) == ["a", "a/sub", "a/late", "b"]
        assert _ids(select(trace, 2, 1, max_len=500)) == ["a", "a/sub", "a/late", "c"]
        cut = select(trace, 1, 1, max_len=140)
        assert _ids(cut) == ["a", "a/sub", "a/late"]
        assert _ids(select(trace, 1, 1, max_len=139)) == ["a"], "their parent's turn 1 is gone"


def test_copies_begin_with_a_cold_synthetic_round(write) -> None:
    path = write([Trajectory("a", SHORT), Trajectory("a/sub", SHORT, "a", 1)])
    with TraceFile.open(path) as trace:
        chosen = select(trace, 3, seed=7)
        assert _ids(chosen) == ["a", "a/sub", "a#1", "a/sub#1", "a#2", "a/sub#2"]
        assert chosen == select(trace, 3, seed=7)
    copy, child = chosen[2], chosen[3]
    assert copy.turns[0] == Turn(64, 1)
    assert copy.prompt_tokens()[1:] == [prompt + 65 for prompt in chosen[0].prompt_tokens()]
    assert (child.parent, child.parent_turn) == ("a#1", 2)
    keys = [set(TokenStream(t, seed=1, vocab=1000).keys(len(t.turns) - 1)) for t in chosen]
    assert all(not one & other for i, one in enumerate(keys) for other in keys[i + 1 :])


def test_copies_stay_within_max_len(write) -> None:
    with TraceFile.open(write([Trajectory("a", SHORT), Trajectory("b", SHORT)])) as trace:
        for trajectory in select(trace, 20, seed=1, max_len=180, synthetic_round_tokens=32):
            final = trajectory.prompt_tokens()[-1] + trajectory.turns[-1].generate_tokens
            assert final <= 180
        with pytest.raises(TraceError, match=r"no copy fits .* max-len 170"):
            select(trace, 20, seed=1, max_len=170)


def test_nothing_fits(write) -> None:
    with TraceFile.open(write([Trajectory("b", LONG)])) as trace:
        with pytest.raises(TraceError, match="raise --max-len or lower --scale"):
            select(trace, 1, 1, max_len=500)
        assert len(select(trace, 1, 1, scale=Fraction(1, 2), max_len=500)) == 1
        with pytest.raises(TraceError, match="agents is 0"):
            select(trace, 0, 1)
