"""Make a trajectory fit a smaller machine: scale every length, then cut at a maximum length as the paper."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from dualpath.core.errors import TraceError
from dualpath.core.trajectory import Trajectory, Turn


def shrink(trajectory: Trajectory, *, scale: Fraction, max_len: int | None) -> Trajectory | None:
    """Scaled, then cut before the first turn whose prompt + output exceeds `max_len` tokens.

    None where not even the first turn fits. Gaps and arrivals stay. Raises TraceError for a scale that is not
    in (0, 1] or does not leave block hashes a whole number of tokens.
    """
    if not 0 < scale <= 1:
        raise TraceError(f"scale is {scale}; it must be above 0 and at most 1, such as 1/8")
    if max_len is not None and max_len < 2:
        raise TraceError(f"max-len is {max_len}; it must be at least 2 tokens (one of prompt, one of output)")
    if scale != 1:
        trajectory = _scaled(trajectory, scale)
    return trajectory if max_len is None else _cut(trajectory, max_len)


def lengthen(trajectory: Trajectory, append_factor: Fraction, generate_factor: Fraction) -> Trajectory:
    """Every round's append, the first prompt among them, and every output, multiplied: the paper's length scaling
    (its section 7.4), to be cut afterwards. Raises TraceError where contexts are cut back or hashed: what such a
    trajectory would keep is not defined."""
    if append_factor == generate_factor == 1:
        return trajectory
    if min(append_factor, generate_factor) <= 0:
        raise TraceError(f"append and generate factors are {append_factor} and {generate_factor}; both must be above 0")
    if trajectory.hash_block_tokens is not None or any(turn.keep_tokens is not None for turn in trajectory.turns):
        raise TraceError(
            f"trajectory {trajectory.id!r} has block hashes or cuts its context back, so its appends and outputs "
            "cannot be multiplied; use a trace whose contexts only grow"
        )
    turns = (
        replace(
            turn,
            append_tokens=max(1, round(turn.append_tokens * append_factor)),
            generate_tokens=max(1, round(turn.generate_tokens * generate_factor)),
        )
        for turn in trajectory.turns
    )
    return replace(trajectory, turns=tuple(turns))


def _scaled(trajectory: Trajectory, scale: Fraction) -> Trajectory:
    """Rounds positions in the context, not counts, so that errors do not add up over a long trajectory."""
    turns: list[Turn] = []
    context = new_context = 0
    for turn in trajectory.turns:
        kept = context if turn.keep_tokens is None else turn.keep_tokens
        new_kept = new_context if turn.keep_tokens is None else min(round(kept * scale), new_context)
        prompt = kept + turn.append_tokens
        new_prompt = max(round(prompt * scale), new_kept + 1)
        context = prompt + turn.generate_tokens
        new_context = max(round(context * scale), new_prompt + 1)
        turns.append(
            replace(
                turn,
                append_tokens=new_prompt - new_kept,
                generate_tokens=new_context - new_prompt,
                keep_tokens=None if turn.keep_tokens is None else new_kept,
            )
        )
    hash_block = _scaled_hash_block(trajectory, scale)
    return replace(trajectory, turns=tuple(turns), hash_block_tokens=hash_block)


def _scaled_hash_block(trajectory: Trajectory, scale: Fraction) -> int | None:
    if trajectory.hash_block_tokens is None:
        return None
    scaled = trajectory.hash_block_tokens * scale
    if scaled.denominator != 1:
        raise TraceError(
            f"trajectory {trajectory.id!r}: scale {scale} would make its hash blocks {scaled} tokens; with "
            f"hash blocks of {trajectory.hash_block_tokens} tokens the scale must be a multiple of "
            f"1/{trajectory.hash_block_tokens}"
        )
    return scaled.numerator


def _cut(trajectory: Trajectory, max_len: int) -> Trajectory | None:
    fitting = 0
    for turn, prompt in zip(trajectory.turns, trajectory.prompt_tokens(), strict=True):
        if prompt + turn.generate_tokens > max_len:
            break
        fitting += 1
    if fitting == 0:
        return None
    return replace(trajectory, turns=trajectory.turns[:fitting])
