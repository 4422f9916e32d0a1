"""What the scheduler wants done. A backend executes commands; the scheduler performs none."""

from __future__ import annotations

from dataclasses import dataclass

from dualpath.core.cluster import Role


@dataclass(frozen=True, slots=True)
class Assigned:
    """A request's engines and route are fixed. For the record; moves nothing."""

    request: int
    prefill_engine: int
    decode_engine: int
    prefill_blocks: int  # hit blocks [0, prefill_blocks) are read on the prefill side,
    decode_blocks: int  # the next decode_blocks on the decode side
    prefill_queue_tokens: int  # the two nodes' read queues before this request joined one
    decode_queue_tokens: int


@dataclass(frozen=True, slots=True)
class Admit:
    """Buffers are granted: PE buffer for the blocks of the prefill side, DE buffer for the whole prompt."""

    request: int


@dataclass(frozen=True, slots=True)
class Read:
    """Read hit blocks [first_block, first_block + num_blocks) from storage into the buffer of `side`."""

    request: int
    side: Role
    engine: int
    first_block: int
    num_blocks: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A request's share of a forward batch: `cached_tokens` have KV, `new_tokens` are computed now."""

    request: int
    cached_tokens: int
    new_tokens: int
    last: bool  # completes the prompt, so the first token comes out


@dataclass(frozen=True, slots=True)
class Prefill:
    engine: int
    batch: int
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True)
class Decode:
    """Load the prompt's KV from the DE buffer into HBM, then generate; persist each block that fills."""

    request: int
    engine: int


Command = Assigned | Admit | Read | Prefill | Decode
