"""What can happen, told to the scheduler with the time it happened (ns of the run's clock)."""

from __future__ import annotations

from dataclasses import dataclass

from dualpath.core.cluster import Role


@dataclass(frozen=True, slots=True)
class Request:
    """One turn to serve. `hit_blocks` Full Blocks of its prompt are in storage."""

    id: int  # consecutive in the order in which turns fell due
    trajectory: int
    turn: int
    prompt_tokens: int
    generate_tokens: int
    hit_blocks: int


@dataclass(frozen=True, slots=True)
class TurnDue:
    t_ns: int
    request: Request


@dataclass(frozen=True, slots=True)
class ReadDone:
    """All blocks of one Read command are in the buffer of their side."""

    t_ns: int
    request: int
    side: Role


@dataclass(frozen=True, slots=True)
class PrefillComputed:
    """A forward batch has computed its last layer: first tokens exist, the PE may start its next batch."""

    t_ns: int
    engine: int
    batch: int
    start_ns: int


@dataclass(frozen=True, slots=True)
class PrefillSent:
    """The KV of a forward batch has arrived in the DE buffers."""

    t_ns: int
    engine: int
    batch: int


@dataclass(frozen=True, slots=True)
class BufferFreed:
    """The DE no longer needs a request's DE buffer: its KV is in HBM, its prompt's new blocks in storage."""

    t_ns: int
    request: int


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """Last token generated and last full block acknowledged by the store."""

    t_ns: int  # when both were true
    request: int
    second_token_ns: int | None
    end_ns: int  # last token; for a one-token output, that of the prefill
    output_hash: int | None  # over the greedy token ids


@dataclass(frozen=True, slots=True)
class QueuesReported:
    """Every node has reported its read queue (only where Constants.report_s is above 0)."""

    t_ns: int


Event = QueuesReported | TurnDue | ReadDone | PrefillComputed | PrefillSent | BufferFreed | TurnEnded
