from __future__ import annotations

from fractions import Fraction

import hypothesis.strategies as st
import pytest
from dualpath.core.errors import TraceError
from dualpath.core.trajectory import Trajectory, Turn
from dualpath.trace.rows import RowChecker
from dualpath.trace.shrink import shrink
from dualpath.trace.writer import _rows
from hypothesis import given, settings

SCALES = st.fractions(min_value=Fraction(1, 64), max_value=1, max_denominator=64)


@st.composite
def edited(draw: st.DrawFn) -> Trajectory:
    turns: list[Turn] = []
    context = 0
    for _ in range(draw(st.integers(1, 12))):
        keep = draw(st.none() | st.integers(0, context))
        turn = Turn(draw(st.integers(1, 900)), draw(st.integers(1, 900)), keep_tokens=keep)
        turns.append(turn)
        context = (context if keep is None else keep) + turn.append_tokens + turn.generate_tokens
    return Trajectory("a", tuple(turns))


@given(trajectory=edited(), scale=SCALES)
@settings(deadline=None)
def test_scaling_keeps_a_trajectory_legal(trajectory: Trajectory, scale: Fraction) -> None:
    small = shrink(trajectory, scale=scale, max_len=None)
    assert small is not None
    assert len(small.turns) == len(trajectory.turns)
    checker = RowChecker(None)
    assert [problem for row in _rows(small, True) for problem in checker.check(row)] == []


@given(counts=st.lists(st.tuples(st.integers(128, 2000), st.integers(128, 900)), min_size=1, max_size=40))
@settings(deadline=None)
def test_scaling_conserves_totals(counts: list[tuple[int, int]]) -> None:
    """Every position is within one token of exact: errors do not add up over turns."""
    trajectory = Trajectory("a", tuple(Turn(append, output) for append, output in counts))
    scale = Fraction(3, 64)
    small = shrink(trajectory, scale=scale, max_len=None)
    assert small is not None
    for before, after in zip(trajectory.prompt_tokens(), small.prompt_tokens(), strict=True):
        assert abs(after - before * scale) <= 1


@given(trajectory=edited(), scale=SCALES, max_len=st.integers(2, 4000))
@settings(deadline=None)
def test_cutting_drops_from_the_first_turn_that_does_not_fit(
    trajectory: Trajectory, scale: Fraction, max_len: int
) -> None:
    whole = shrink(trajectory, scale=scale, max_len=None)
    cut = shrink(trajectory, scale=scale, max_len=max_len)
    assert whole is not None
    sizes = [p + t.generate_tokens for p, t in zip(whole.prompt_tokens(), whole.turns, strict=True)]
    kept = 0 if cut is None else len(cut.turns)
    assert all(size <= max_len for size in sizes[:kept])
    assert kept == len(sizes) or sizes[kept] > max_len
    assert cut is None or cut.turns == whole.turns[:kept]


def test_nothing_to_do_gives_the_same() -> None:
    trajectory = Trajectory("a", (Turn(5, 5), Turn(6, 6, keep_tokens=3)))
    assert shrink(trajectory, scale=Fraction(1), max_len=None) is trajectory
    assert shrink(trajectory, scale=Fraction(1), max_len=9) is None


def test_hash_blocks_scale_with_the_tokens() -> None:
    trajectory = Trajectory("a", (Turn(130, 5, block_hashes=(1, 2)),), hash_block_tokens=64, hash_scope="local")
    small = shrink(trajectory, scale=Fraction(1, 8), max_len=None)
    assert small is not None
    assert small.hash_block_tokens == 8
    assert small.turns[0].append_tokens == 16
    with pytest.raises(TraceError, match=r"scale 1/3 .* 64/3 tokens.* multiple of 1/64"):
        shrink(trajectory, scale=Fraction(1, 3), max_len=None)


@pytest.mark.parametrize("scale", [Fraction(0), Fraction(-1, 2), Fraction(3, 2)])
def test_a_scale_outside_its_range_is_refused(scale: Fraction) -> None:
    with pytest.raises(TraceError, match="scale is"):
        shrink(Trajectory("a", (Turn(5, 5),)), scale=scale, max_len=None)


def test_a_max_len_without_room_is_refused() -> None:
    with pytest.raises(TraceError, match="max-len is 1"):
        shrink(Trajectory("a", (Turn(5, 5),)), scale=Fraction(1), max_len=1)
