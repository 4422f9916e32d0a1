"""The data path as a table: which resource carries which bytes at each step (paper 2.2 and Fig 4).

A *stage* is one movement of some tokens' KV; its hops say what it costs each resource. Engines charge a stage
when they perform it, the prediction charges the stages that the scheduler's commands imply, and the
simulator's links charge the same ones: so the three can be compared byte for byte.

Directions are the host's side, as in the paper: a CNIC *reads* PCIe (from DRAM or a GPU) and *writes* it; the SNIC's
*read* brings blocks from storage, its *write* takes them there; DRAM is read and written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from dualpath.core.arms import Arm
from dualpath.core.cluster import Cluster, Role
from dualpath.core.commands import Command, Decode, Prefill, Read
from dualpath.core.compiled import compiled
from dualpath.core.flight import Flight

Resource = Literal["snic", "cnic", "dram"]
Direction = Literal["read", "write"]
Route = Literal["prefill", "decode", "miss", "persist"]
Stage = Literal["read-prefill", "load-prefill", "read-decode", "load-decode", "forward", "start", "stage-out", "store"]


@dataclass(frozen=True, slots=True)
class Hop:
    """One resource touched by a stage. `labels`: the paper's numbers in Fig 4, by read path (PE/DE)."""

    role: Role
    resource: Resource
    direction: Direction
    block: Literal["full", "layer"]
    labels: str


HOPS: dict[Stage, tuple[Hop, ...]] = {
    # storage -> PE buffer
    "read-prefill": (
        Hop("prefill", "snic", "read", "full", "PE 1"),
        Hop("prefill", "dram", "write", "full", "PE 2"),
    ),
    # PE buffer -> PE HBM, layer by layer (loopback through the CNIC)
    "load-prefill": (
        Hop("prefill", "dram", "read", "layer", "PE 3"),
        Hop("prefill", "cnic", "read", "layer", "PE 3"),
        Hop("prefill", "cnic", "write", "layer", "PE 4"),
    ),
    # storage -> DE buffer
    "read-decode": (
        Hop("decode", "snic", "read", "full", "DE 1"),
        Hop("decode", "dram", "write", "full", "DE 2"),
    ),
    # DE buffer -> PE HBM, layer by layer; the PE's DRAM is not touched
    "load-decode": (
        Hop("decode", "dram", "read", "layer", "DE 3"),
        Hop("decode", "cnic", "read", "layer", "DE 3"),
        Hop("prefill", "cnic", "write", "layer", "DE 4, 5"),
    ),
    # PE HBM -> DE buffer, layer by layer: hit KV of the PE read path, and all miss KV
    "forward": (
        Hop("prefill", "cnic", "read", "layer", "PE 5"),
        Hop("decode", "cnic", "write", "layer", "PE 6, 7"),
        Hop("decode", "dram", "write", "layer", "PE 7"),
    ),
    # DE buffer -> DE HBM, once, before decode
    "start": (
        Hop("decode", "dram", "read", "full", "PE 8, DE 6"),
        Hop("decode", "cnic", "read", "full", "PE 8, DE 6"),
        Hop("decode", "cnic", "write", "full", "PE 9, DE 7"),
    ),
    # DE HBM -> DE DRAM: a block that decode has filled (paper 5.2, store)
    "stage-out": (
        Hop("decode", "cnic", "read", "full", ""),
        Hop("decode", "cnic", "write", "full", ""),
        Hop("decode", "dram", "write", "full", ""),
    ),
    # DE DRAM -> storage
    "store": (
        Hop("decode", "dram", "read", "full", ""),
        Hop("decode", "snic", "write", "full", ""),
    ),
}


STAGES: tuple[Stage, ...] = tuple(HOPS)  # their numbers, for compiled code


class Charge(NamedTuple):
    """Where bytes are counted. `engine` is None for what a node's engines share (snic, dram)."""

    resource: Resource
    node: int
    engine: int | None
    direction: Direction
    route: Route | Literal["model"]  # model traffic has no route


def charges(cluster: Cluster, stage: Stage, route: Route, prefill_engine: int, decode_engine: int) -> Iterator[Charge]:
    """The counters a stage adds its bytes to, for one request's pair of engines."""
    for hop in HOPS[stage]:
        engine = prefill_engine if hop.role == "prefill" else decode_engine
        yield Charge(
            hop.resource,
            cluster.node_of(engine),
            engine if hop.resource == "cnic" else None,
            hop.direction,
            route,
        )


class StageTokens(NamedTuple):
    """So many tokens' KV went through a stage."""

    stage: Stage
    route: Route
    tokens: int


@compiled
def batch_tokens(
    hit_tokens: int, prefill_side_tokens: int, cached_tokens: int, new_tokens: int
) -> tuple[int, int, int, int, int]:
    """Tokens whose KV one request's share of a forward batch moves: loaded from the PE buffer; hit KV loaded from the
    DE buffer; KV of earlier chunks, which has left the PE and comes back from there; new KV sent; hit KV of the
    prefill route sent (once, with the first chunk)."""
    forward = prefill_side_tokens if cached_tokens == hit_tokens else 0
    return prefill_side_tokens, hit_tokens - prefill_side_tokens, cached_tokens - hit_tokens, new_tokens, forward


@compiled
def stored_tokens(prompt_tokens: int, generate_tokens: int, hit_tokens: int, block_tokens: int) -> tuple[int, int]:
    """Tokens whose KV a turn leaves in storage: in new full blocks of the prompt, and in full blocks that decode
    fills. The last token is never fed back, so it has no KV."""
    prompt_full = prompt_tokens // block_tokens * block_tokens
    full = (prompt_tokens + generate_tokens - 1) // block_tokens * block_tokens
    return max(0, prompt_full - hit_tokens), full - max(prompt_full, hit_tokens)


def command_stages(cluster: Cluster, command: Command, flight: Flight) -> list[StageTokens]:
    """Stages a command implies for one request. `flight`: its state at the time of the command."""
    block_tokens = cluster.block_tokens
    request = flight.request
    hit_tokens, prompt_tokens = request.hit_blocks * block_tokens, request.prompt_tokens
    prefill_tokens = flight.prefill_blocks * block_tokens
    match command:
        case Read(side=side, num_blocks=num_blocks):
            return [
                StageTokens("read-prefill" if side == "prefill" else "read-decode", side, num_blocks * block_tokens)
            ]
        case Prefill(chunks=chunks):
            (chunk,) = (chunk for chunk in chunks if chunk.request == request.id)
            prefill, decode, again, new, forward = batch_tokens(
                hit_tokens, prefill_tokens, chunk.cached_tokens, chunk.new_tokens
            )
            return [
                StageTokens("load-prefill", "prefill", prefill),
                StageTokens("load-decode", "decode", decode),
                StageTokens("load-decode", "miss", again),
                StageTokens("forward", "miss", new),
                StageTokens("forward", "prefill", forward),
            ]
        case Decode():
            prompt_stored, filled = stored_tokens(prompt_tokens, request.generate_tokens, hit_tokens, block_tokens)
            return [
                StageTokens("start", "prefill", prefill_tokens),
                StageTokens("start", "decode", hit_tokens - prefill_tokens),
                StageTokens("start", "miss", prompt_tokens - hit_tokens),
                StageTokens("stage-out", "persist", filled),
                StageTokens("store", "persist", prompt_stored + filled),
            ]
        case _:
            return []


class BytePrediction:
    """Adds up what the scheduler's commands must cost every resource."""

    def __init__(self, cluster: Cluster, arm: Arm) -> None:
        self._cluster = cluster
        self._arm = arm
        self.block_tokens = cluster.block_tokens
        self.bytes: Counter[Charge] = Counter()

    def add(self, commands: Iterable[Command], flights: dict[int, Flight]) -> None:
        if not self._arm.moves_kv:
            return
        for command in commands:
            match command:
                case Prefill(chunks=chunks):
                    requests = [chunk.request for chunk in chunks]
                case Read(request=request) | Decode(request=request):
                    requests = [request]
                case _:
                    continue
            for request in requests:
                self._add(command, flights[request])

    def _add(self, command: Command, flight: Flight) -> None:
        for stage, route, tokens in command_stages(self._cluster, command, flight):
            if not tokens:
                continue
            num_bytes = tokens * self._cluster.model.kv_bytes
            for charge in charges(self._cluster, stage, route, flight.prefill_engine, flight.decode_engine):
                self.bytes[charge] += num_bytes
