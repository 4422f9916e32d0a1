"""Token ids and block keys of a trajectory, made from a seed: the same in every arm, process and machine.

What stands at a position is settled when a turn first writes it, and stays until a later turn's
`keep_tokens` cuts it off. Where a recorded block hash covers the position, the id follows from that hash, so
recorded sharing (within a trajectory, between agents) becomes real sharing of KV blocks; a tail or an output
that had no hash when it was written takes the one that covers it later. Elsewhere the id follows from
(trajectory, turn, position).
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dualpath.core.trajectory import Trajectory

TokenIds = npt.NDArray[np.int32]

KEY_BYTES = 16
ROOT_KEY = bytes(KEY_BYTES)  # the parent of a block at position 0

_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15  # splitmix64's increment; odd, so multiples of it do not repeat
_TURN_STEP = 0xD1342543DE82EF95
_OWN = -1  # source of a piece that no recorded hash covers


class _Piece(NamedTuple):
    """Positions [start, stop) written by one turn, with the turn whose block hashes say what they are."""

    start: int
    stop: int
    source: int


class TokenStream:
    """Token ids and block keys, turn by turn. Going forward costs the new tokens; going back starts over."""

    def __init__(self, trajectory: Trajectory, *, seed: int, vocab: int) -> None:
        """`vocab`: ids are in [0, vocab). Nothing is made before it is asked for."""
        assert 1 <= vocab <= 1 << 31, "ids are int32"
        self._turns = trajectory.turns
        self._vocab = np.uint64(vocab)
        self._prompts = trajectory.prompt_tokens()
        self._ends = [p + t.generate_tokens for p, t in zip(self._prompts, self._turns, strict=True)]
        self._keeps = _kept_tokens(trajectory)
        self._pieces = _pieces(trajectory, self._prompts, self._ends, self._keeps)
        self._hash_block = trajectory.hash_block_tokens or 0
        self._own_base = _base(seed, "trajectory", trajectory.id)
        # Sub-agents share the id namespace of the session they belong to.
        scope = "" if trajectory.hash_scope == "global" else trajectory.parent or trajectory.id
        self._hash_base = _base(seed, f"hash {trajectory.hash_scope}", scope)
        self._tokens = np.empty(max(self._ends), dtype=np.int32)
        self._written = -1  # last turn that stands in _tokens
        self._block_tokens = 64
        self._keys: list[bytes] = []

    def prompt(self, turn: int) -> TokenIds:
        """The whole prompt. [prompt_tokens]; a copy, yours to keep."""
        self._advance(turn)
        return self._tokens[: self._prompts[turn]].copy()

    def output(self, turn: int) -> TokenIds:
        """The forced output. [generate_tokens]; a copy."""
        self._advance(turn)
        return self._tokens[self._prompts[turn] : self._ends[turn]].copy()

    def keys(self, turn: int, block_tokens: int = 64) -> list[bytes]:
        """Chained keys of the full blocks of prompt + output, KEY_BYTES each.

        Key i stands for all tokens of blocks 0 to i. The last output token has no KV, so a block that ends
        with it cannot be stored by this turn: `Trajectory.planned_hit_tokens` counts that way.
        """
        if block_tokens != self._block_tokens:
            self._block_tokens = block_tokens
            self._keys = []
        self._advance(turn)
        num_full = self._ends[turn] // block_tokens
        parent = self._keys[-1] if self._keys else ROOT_KEY
        for block in range(len(self._keys), num_full):
            ids = self._tokens[block * block_tokens : (block + 1) * block_tokens]
            parent = block_key(parent, ids)
            self._keys.append(parent)
        return self._keys[:num_full]

    def _advance(self, turn: int) -> None:
        if turn < self._written:
            self._written = -1
            self._keys = []
        for index in range(self._written + 1, turn + 1):
            del self._keys[self._keeps[index] // self._block_tokens :]
            for piece in self._pieces[index]:
                self._tokens[piece.start : piece.stop] = self._ids(index, piece)
        self._written = max(self._written, turn)

    def _ids(self, turn: int, piece: _Piece) -> TokenIds:
        positions = np.arange(piece.start, piece.stop, dtype=np.uint64)
        if piece.source == _OWN:
            base = np.uint64(_mix_int(self._own_base + turn * _TURN_STEP))
            mixed = _mix(positions * np.uint64(_STEP) + base)
        else:
            hashes = self._turns[piece.source].block_hashes
            assert hashes is not None, "a piece's source has hashes"
            size = self._hash_block
            first = piece.start // size
            ids = np.array(hashes[first : -(-piece.stop // size)], dtype=np.int64).view(np.uint64)
            bases = _mix(ids * np.uint64(_TURN_STEP) + np.uint64(self._hash_base))
            offsets = positions % np.uint64(size)
            spread = np.repeat(bases, size)[piece.start - first * size : piece.stop - first * size]
            mixed = _mix(offsets * np.uint64(_STEP) + spread)
        return ((mixed >> np.uint64(32)) * self._vocab >> np.uint64(32)).astype(np.int32)


def block_key(parent: bytes, ids: TokenIds) -> bytes:
    """Key of the block with these token ids after the block `parent` (ROOT_KEY for the first)."""
    digest = hashlib.blake2b(parent, digest_size=KEY_BYTES)
    digest.update(ids.astype("<i4", copy=False).tobytes())
    return digest.digest()


def _kept_tokens(trajectory: Trajectory) -> list[int]:
    prompts = trajectory.prompt_tokens()
    return [prompt - turn.append_tokens for prompt, turn in zip(prompts, trajectory.turns, strict=True)]


def _pieces(trajectory: Trajectory, prompts: list[int], ends: list[int], keeps: list[int]) -> list[list[_Piece]]:
    """For each turn, what it writes and which turn's hashes settle it. Linear in turns.

      kept        covered by this turn's hashes     waiting for a later turn's hashes
    0 ---- keep ------------------------ covered ------------------------------- end
    """
    pieces: list[list[_Piece]] = [[] for _ in trajectory.turns]
    if trajectory.hash_block_tokens is None:
        return [[_Piece(keep, end, _OWN)] for keep, end in zip(keeps, ends, strict=True)]
    waiting: deque[tuple[int, int, int]] = deque()  # (turn that wrote it, start, stop), by position
    for index, turn in enumerate(trajectory.turns):
        keep, end = keeps[index], ends[index]
        while waiting and waiting[-1][2] > keep:  # cut off: no later hash speaks of it
            writer, start, stop = waiting.pop()
            pieces[writer].append(_Piece(max(start, keep), stop, _OWN))
            if start < keep:
                waiting.append((writer, start, keep))
        covered = min(len(turn.block_hashes or ()) * trajectory.hash_block_tokens, prompts[index])
        while waiting and waiting[0][1] < covered:
            writer, start, stop = waiting.popleft()
            pieces[writer].append(_Piece(start, min(stop, covered), index))
            if stop > covered:
                waiting.appendleft((writer, covered, stop))
        if covered > keep:
            pieces[index].append(_Piece(keep, covered, index))
        waiting.append((index, max(keep, covered), end))
    for writer, start, stop in waiting:
        pieces[writer].append(_Piece(start, stop, _OWN))
    return pieces


def _base(seed: int, kind: str, name: str) -> int:
    text = f"{seed}\n{kind}\n{name}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finalizer of splitmix64, in place; wraps modulo 2^64."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def _mix_int(x: int) -> int:
    return int(_mix(np.array([x & _MASK], dtype=np.uint64))[0])
