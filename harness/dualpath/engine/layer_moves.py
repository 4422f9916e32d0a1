"""What a forward batch moves for each layer: planned once, as layer 0 has it; every other layer is some bytes further.

Requests with the same route and decode engine move together: what a move costs the processor does not grow with the
batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from dualpath.core.hops import Route, Stage
from dualpath.engine.geometry import BlockGeometry, Pieces
from dualpath.engine.messages import ChunkWork


@dataclass(frozen=True, slots=True)
class LayerMove:
    """Between device memory of a prefill engine and a buffer."""

    stage: Stage
    route: Route
    decode_engine: int
    buffer: int  # the engine whose buffer it is
    tokens: int
    pieces: Pieces  # of layer 0: device memory is local


def planned_loads(geometry: BlockGeometry, engine: int, chunks: Iterable[tuple[ChunkWork, int]]) -> list[LayerMove]:
    """What the batch reads. chunks: work, and the row of device memory where its first token lies."""
    return _together(geometry, (each for work, row in chunks for each in _loads(engine, work, row)))


def planned_sends(geometry: BlockGeometry, chunks: Iterable[tuple[ChunkWork, int]]) -> list[LayerMove]:
    """What the batch hands on."""
    return _together(geometry, (each for work, row in chunks for each in _sends(work, row)))


@dataclass(frozen=True, slots=True)
class _Range:
    """Tokens [first, end) of a request."""

    stage: Stage
    route: Route
    decode_engine: int
    buffer: int
    slots: list[int]
    row: int
    first: int
    end: int


def _loads(engine: int, work: ChunkWork, row: int) -> Iterator[_Range]:
    other, hit = work.decode_engine, work.hit_tokens
    yield _Range("load-prefill", "prefill", other, engine, work.prefill_slots, row, 0, work.prefill_tokens)
    yield _Range("load-decode", "decode", other, other, work.decode_slots, row, work.prefill_tokens, hit)
    # what earlier chunks computed has left this engine and comes back
    yield _Range("load-decode", "miss", other, other, work.decode_slots, row, hit, work.cached_tokens)


def _sends(work: ChunkWork, row: int) -> Iterator[_Range]:
    other, cached = work.decode_engine, work.cached_tokens
    if cached == work.hit_tokens:  # with the first chunk: the DE has no hit KV of the PE read path
        yield _Range("forward", "prefill", other, other, work.decode_slots, row, 0, work.prefill_tokens)
    yield _Range("forward", "miss", other, other, work.decode_slots, row, cached, cached + work.new_tokens)


def _together(geometry: BlockGeometry, ranges: Iterable[_Range]) -> list[LayerMove]:
    parts: dict[tuple[Stage, Route, int, int], list[_Range]] = {}
    for part in ranges:
        if part.end > part.first:
            parts.setdefault((part.stage, part.route, part.decode_engine, part.buffer), []).append(part)
    return [
        LayerMove(
            *key,
            tokens=sum(part.end - part.first for part in together),
            pieces=np.concatenate(
                [
                    geometry.pieces(
                        part.slots, 0, part.first, part.end - part.first, (part.row + part.first) * geometry.entry_bytes
                    )
                    for part in together
                ]
            ),
        )
        for key, together in parts.items()
    ]
