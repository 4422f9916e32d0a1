"""A trajectory: one agent's whole multi-turn run, as token counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Turn:
    """One model call. Its prompt is the first `keep_tokens` of what came before, plus `append_tokens`."""

    append_tokens: int  # new prompt tokens, >= 1; at turn 0 the whole first prompt
    generate_tokens: int  # forced output length, >= 1
    gap_ns: int = 0  # tool or user time between the previous turn's end and this turn's due time
    keep_tokens: int | None = None  # of the previous context (prompt + output); None: all of it
    arrival_ns: int | None = None  # absolute recorded time, where the source has one
    block_hashes: tuple[int, ...] | None = None  # ids of the prompt's full hash blocks, cumulative from block 0


@dataclass(frozen=True, slots=True)
class Trajectory:
    """An agent's turns in order. A child (sub-agent) starts when `parent_turn` of `parent` has ended,
    and the parent's next turn waits for it."""

    id: str
    turns: tuple[Turn, ...]
    parent: str | None = None
    parent_turn: int | None = None
    hash_block_tokens: int | None = None  # tokens one block hash stands for
    hash_scope: str | None = None  # "local": ids mean something within this trajectory only; "global": across all

    def prompt_tokens(self) -> list[int]:
        """Prompt length of every turn: kept context plus append."""
        prompts: list[int] = []
        context = 0
        for turn in self.turns:
            kept = context if turn.keep_tokens is None else turn.keep_tokens
            prompts.append(kept + turn.append_tokens)
            context = prompts[-1] + turn.generate_tokens
        return prompts

    def planned_hit_tokens(self, block_tokens: int) -> list[int]:
        """Per turn, prompt tokens whose KV the trajectory's own previous turn left in storage: full blocks of the
        kept context, without the last output token (it was never fed back, so it has no KV).

        At least one prompt token is always left to compute, because append_tokens >= 1.
        """
        hits: list[int] = []
        with_kv = 0
        for turn, prompt in zip(self.turns, self.prompt_tokens(), strict=True):
            hits.append(min(prompt - turn.append_tokens, with_kv) // block_tokens * block_tokens)
            with_kv = prompt + turn.generate_tokens - 1
        return hits
