from __future__ import annotations

import hashlib
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
from dualpath.core.trajectory import Trajectory, Turn
from dualpath.trace.tokens import ROOT_KEY, TokenStream
from hypothesis import given, settings

PLAIN = [23404, 5136, 22245, 7969]
SHARED = [18488, 1271, 27839, 28707]
KEY = "9d8a247119cd01913f425050f3ac9deb"


@st.composite
def recorded(draw: st.DrawFn) -> Trajectory:
    """With edits, and with block hashes of 16 tokens on some turns."""
    turns: list[Turn] = []
    context = 0
    for _ in range(draw(st.integers(1, 8))):
        keep = draw(st.none() | st.integers(0, context))
        append, output = draw(st.integers(1, 90)), draw(st.integers(1, 60))
        prompt = (context if keep is None else keep) + append
        hashes = draw(st.none() | st.lists(st.integers(0, 9), max_size=-(-prompt // 16)))
        turns.append(Turn(append, output, 0, keep, None, None if hashes is None else tuple(hashes)))
        context = prompt + output
    return Trajectory("a", tuple(turns), hash_block_tokens=16, hash_scope="local")


def _contents(trajectory: Trajectory, turn: int, seed: int = 1) -> list[int]:
    stream = TokenStream(trajectory, seed=seed, vocab=5000)
    return [*stream.prompt(turn).tolist(), *stream.output(turn).tolist()]


@given(trajectory=recorded())
@settings(deadline=None)
def test_kept_content_stays_and_cut_content_goes(trajectory: Trajectory) -> None:
    stream = TokenStream(trajectory, seed=1, vocab=1 << 30)
    before: list[int] = []
    for index, turn in enumerate(trajectory.turns):
        prompt = stream.prompt(index).tolist()
        kept = len(before) if turn.keep_tokens is None else turn.keep_tokens
        assert prompt[:kept] == before[:kept]
        assert len(prompt) == kept + turn.append_tokens
        before = prompt + stream.output(index).tolist()
        assert len(before) == trajectory.prompt_tokens()[index] + turn.generate_tokens
        assert all(0 <= token < 1 << 30 for token in before)


@given(trajectory=recorded(), block=st.sampled_from([16, 64]))
@settings(deadline=None)
def test_keys_chain_over_the_tokens(trajectory: Trajectory, block: int) -> None:
    """Incremental keys equal those computed from nothing, whatever order the turns are asked in."""
    stream = TokenStream(trajectory, seed=1, vocab=5000)
    turns = range(len(trajectory.turns))
    for turn in [*turns, *reversed(turns)]:
        contents = np.array(_contents(trajectory, turn), dtype="<i4")
        expected, parent = [], ROOT_KEY
        for start in range(0, len(contents) // block * block, block):
            data = parent + contents[start : start + block].tobytes()
            parent = hashlib.blake2b(data, digest_size=16).digest()
            expected.append(parent)
        assert stream.keys(turn, block) == expected


@given(trajectory=recorded())
@settings(deadline=None)
def test_tokens_depend_on_seed_and_trajectory_only(trajectory: Trajectory) -> None:
    last = len(trajectory.turns) - 1
    assert _contents(trajectory, last) == _contents(trajectory, last)
    assert _contents(trajectory, last, seed=2) != _contents(trajectory, last)


def test_known_values_do_not_drift() -> None:
    """Stores and recorded runs outlive a version: the ids of a seed must not change."""
    plain = TokenStream(Trajectory("a", (Turn(64, 2),)), seed=1, vocab=32000)
    hashed = Trajectory("a", (Turn(4, 2, block_hashes=(7,)),), hash_block_tokens=4, hash_scope="global")
    shared = TokenStream(hashed, seed=1, vocab=32000)
    assert plain.prompt(0)[:4].tolist() == PLAIN
    assert shared.prompt(0).tolist() == SHARED
    assert plain.keys(0)[0].hex() == KEY


def _hashed(name: str, scope: str, *hashes: tuple[int, ...]) -> Trajectory:
    turns = tuple(Turn(32 if index else 40, 8, block_hashes=ids) for index, ids in enumerate(hashes))
    return Trajectory(name, turns, hash_block_tokens=16, hash_scope=scope)


def test_global_hashes_share_between_trajectories_and_local_ones_do_not() -> None:
    for scope, shared in (("global", True), ("local", False)):
        one = _contents(_hashed("a", scope, (1, 2)), 0)
        other = _contents(_hashed("b", scope, (1, 2)), 0)
        assert (one[:32] == other[:32]) is shared
        assert one[32:] != other[32:], "the tail has no hash"


def test_a_sub_agent_shares_its_parents_local_hashes() -> None:
    parent = _hashed("a", "local", (1, 2))
    child = replace(_hashed("a/sub", "local", (1, 2)), parent="a", parent_turn=0)
    assert _contents(parent, 0)[:32] == _contents(child, 0)[:32]


def test_a_tail_takes_the_hash_that_covers_it_later() -> None:
    """Turn 0's tail and output, [32, 48), are block 3 of turn 1: whoever has the blocks shares it all."""
    grown = _hashed("a", "global", (1, 2), (1, 2, 3, 4, 5))
    whole = Trajectory("b", (Turn(80, 1, block_hashes=(1, 2, 3, 4, 5)),), hash_block_tokens=16, hash_scope="global")
    assert _contents(grown, 1)[:80] == _contents(whole, 0)[:80]
    assert _contents(grown, 0) == _contents(whole, 0)[:48]


def test_planned_hits_are_full_blocks_of_kept_context_without_the_last_output_token() -> None:
    turns = (Turn(100, 28), Turn(64, 65), Turn(10, 5, keep_tokens=70), Turn(10, 5, keep_tokens=0))
    trajectory = Trajectory("a", turns)
    assert trajectory.planned_hit_tokens(64) == [0, 64, 64, 0]
    assert replace(trajectory, turns=(Turn(100, 29), Turn(1, 1))).planned_hit_tokens(64) == [0, 128]


@given(trajectory=recorded(), block=st.sampled_from([1, 16, 64]))
@settings(deadline=None)
def test_planned_hits_leave_a_token_to_compute(trajectory: Trajectory, block: int) -> None:
    hits = trajectory.planned_hit_tokens(block)
    for hit, prompt in zip(hits, trajectory.prompt_tokens(), strict=True):
        assert 0 <= hit < prompt
        assert hit % block == 0
