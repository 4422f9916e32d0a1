"""Choose the trajectories of a run: the first ones of the file, and copies when there are too few."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import islice

from dualpath.core.errors import TraceError
from dualpath.core.trajectory import Trajectory, Turn
from dualpath.trace.gaps import with_gaps
from dualpath.trace.reader import TraceFile
from dualpath.trace.shrink import lengthen, shrink


def families(trajectories: Iterable[Trajectory]) -> Iterator[list[Trajectory]]:
    """Group each root with the sub-agents that follow it in the file."""
    family: list[Trajectory] = []
    for trajectory in trajectories:
        if trajectory.parent is None and family:
            yield family
            family = []
        family.append(trajectory)
    if family:
        yield family


def select(
    trace: TraceFile,
    agents: int | None,
    seed: int,
    *,
    scale: Fraction = Fraction(1),
    max_len: int | None = None,
    append_factor: Fraction = Fraction(1),
    generate_factor: Fraction = Fraction(1),
    gap_s: float = 0.0,
    synthetic_round_tokens: int = 64,
) -> Iterator[list[Trajectory]]:
    """The families of `agents` agents (None: as many as the file has), shrunk, in file order, read as they are asked
    for; sub-agents come along with their root and are not counted. gap_s: mean tool time to put between turns.

    Where the file has fewer, one is drawn (seeded) and a synthetic round of random tokens with one token of
    output is put before it, as in the paper (section 7.2, Replay): its prefix is cold and shared with nobody.
    Copy k of trajectory `x` is called `x#k`. Raises TraceError where nothing fits.
    """
    if agents is not None and agents < 1:
        raise TraceError(f"agents is {agents}; it must be at least 1")
    if synthetic_round_tokens < 1:
        raise TraceError(f"synthetic_round_tokens is {synthetic_round_tokens}; it must be at least 1")

    def fitting() -> Iterator[list[Trajectory]]:
        longer = ([lengthen(each, append_factor, generate_factor) for each in family] for family in families(trace))
        apart = ([with_gaps(each, gap_s, seed) for each in family] for family in longer)
        shrunk = (_shrunk(family, scale, max_len) for family in apart)
        return (family for family in shrunk if family)

    chosen = 0
    for family in islice(fitting(), agents):
        yield family
        chosen += 1
    if not chosen:
        raise TraceError(
            f"{trace.path}: not one of {trace.num_trajectories:,} trajectories has a first turn within "
            f"max-len {max_len} at scale {scale}; raise --max-len or lower --scale"
        )
    if agents is not None and chosen < agents:
        yield from _copies(list(fitting()), agents, seed, max_len, synthetic_round_tokens, trace)


def _shrunk(family: list[Trajectory], scale: Fraction, max_len: int | None) -> list[Trajectory]:
    """What is left of a family: without its root nothing, without a parent's turn not its sub-agent."""
    num_turns: dict[str, int] = {}
    kept: list[Trajectory] = []
    for trajectory in family:
        if trajectory.parent is not None and (
            trajectory.parent_turn is None or trajectory.parent_turn >= num_turns.get(trajectory.parent, 0)
        ):
            continue
        small = shrink(trajectory, scale=scale, max_len=max_len)
        if small is not None:
            kept.append(small)
            num_turns[small.id] = len(small.turns)
    return kept


def _copies(
    originals: list[list[Trajectory]],
    agents: int,
    seed: int,
    max_len: int | None,
    synthetic_round_tokens: int,
    trace: TraceFile,
) -> Iterator[list[Trajectory]]:
    """Cold copies of some originals, as many as `agents` is more than there are originals."""
    rng = random.Random(f"copies {seed}")
    taken = {trajectory.id for family in originals for trajectory in family}
    room = None if max_len is None else max_len - synthetic_round_tokens - 1
    copyable = [family for family in originals if room is None or _first_turn_tokens(family[0]) <= room]
    if not copyable:
        raise TraceError(
            f"{trace.path}: only {len(originals)} of {agents} agents fit, and no copy fits with its synthetic "
            f"round of {synthetic_round_tokens} + 1 tokens within max-len {max_len}; raise --max-len or ask for "
            "fewer agents"
        )
    copies: dict[str, int] = {}
    models: dict[str, list[Trajectory]] = {}  # a family as its copies are, but for their ids: they share their turns
    for _ in range(agents - len(originals)):
        family = rng.choice(copyable)
        root = family[0].id
        copies[root] = copies.get(root, 0) + 1
        while any(f"{member.id}#{copies[root]}" in taken for member in family):
            copies[root] += 1
        if root not in models:
            models[root] = _shrunk(_cold(family, synthetic_round_tokens), Fraction(1), max_len)
        yield [_numbered(member, copies[root]) for member in models[root]]


def _numbered(member: Trajectory, number: int) -> Trajectory:
    parent = None if member.parent is None else f"{member.parent}#{number}"
    return replace(member, id=f"{member.id}#{number}", parent=parent)


def _first_turn_tokens(trajectory: Trajectory) -> int:
    return trajectory.turns[0].append_tokens + trajectory.turns[0].generate_tokens


def _cold(family: list[Trajectory], synthetic_round_tokens: int) -> list[Trajectory]:
    """Block hashes go: they name the original's blocks, which a copy must not share."""
    cold: list[Trajectory] = []
    root = family[0].id
    for member in family:
        turns = [replace(turn, block_hashes=None, arrival_ns=None) for turn in member.turns]
        if member.parent is None:
            turns = _after_synthetic_round(turns, synthetic_round_tokens)
        # The root has one turn more than its original; sub-agents have not.
        parent_turn = member.parent_turn
        if parent_turn is not None and member.parent == root:
            parent_turn += 1
        cold.append(Trajectory(member.id, tuple(turns), member.parent, parent_turn))
    return cold


def _after_synthetic_round(turns: list[Turn], synthetic_round_tokens: int) -> list[Turn]:
    shift = synthetic_round_tokens + 1
    shifted = [
        turn if turn.keep_tokens is None else replace(turn, keep_tokens=turn.keep_tokens + shift) for turn in turns
    ]
    return [Turn(append_tokens=synthetic_round_tokens, generate_tokens=1), *shifted]
