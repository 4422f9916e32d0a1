"""The scheduler as values: events in, commands out. What it decides is in steps.py; here numbers become values.

The real engine uses this; the simulator calls steps.py itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from dualpath.core import answers, steps
from dualpath.core.arms import Arm
from dualpath.core.cluster import Cluster
from dualpath.core.commands import Admit, Assigned, Chunk, Command, Decode, Prefill, Read
from dualpath.core.events import (
    BufferFreed,
    Event,
    PrefillComputed,
    PrefillSent,
    QueuesReported,
    ReadDone,
    Request,
    TurnDue,
    TurnEnded,
)
from dualpath.core.flight import Flight
from dualpath.core.queues import NONE
from dualpath.core.state import DECODE, PREFILL, State, grow, new_state

_FIRST_CAPACITY = 64


class Scheduler:
    """Serves requests on a cluster under an arm. `flights` holds every request that is due and not ended."""

    def __init__(self, cluster: Cluster, arm: Arm) -> None:
        self.cluster = cluster
        self.arm = arm
        self.flights: dict[int, Flight] = {}
        self.state: State = new_state(cluster, arm, _FIRST_CAPACITY)
        self._numbers: dict[int, int] = {}  # request -> its number in the state
        self._requests: dict[int, int] = {}  # and back
        self._batches: dict[int, int] = {}  # batch -> its first request's number in the state
        self._num_batches = 0

    def handle(self, event: Event) -> list[Command]:
        """Take one event; returns what is to be done now, in order."""
        match event:
            case TurnDue(request=request):
                self._turn_due(request)
            case QueuesReported():
                steps.queues_reported(self.state)
            case ReadDone(request=request_id, side=side):
                steps.read_done(self.state, self._numbers[request_id], PREFILL if side == "prefill" else DECODE)
            case PrefillComputed(engine=engine):
                steps.prefill_computed(self.state, engine)
            case PrefillSent(engine=engine, batch=batch):
                steps.prefill_sent(self.state, self._batches.pop(batch), engine)
            case BufferFreed(request=request_id):
                steps.buffer_freed(self.state, self._numbers[request_id])
            case TurnEnded(request=request_id):
                number = self._numbers.pop(request_id)
                del self._requests[number], self.flights[request_id]
                steps.turn_ended(self.state, number)
        return [self._command(row) for row in self.state.commands[: self.state.counts[0].num_commands].tolist()]

    def _turn_due(self, request: Request) -> None:
        if not self.state.counts[0].num_free:
            grow(self.state, 2 * len(self.state.flights))
        self.flights[request.id] = Flight(request)
        number = int(self.state.free[self.state.counts[0].num_free - 1])  # the one that turn_due takes
        self._numbers[request.id], self._requests[number] = number, request.id
        steps.turn_due(self.state, request.prompt_tokens, request.generate_tokens, request.hit_blocks)

    def _command(self, row: list[int]) -> Command:
        kind, number, a, b, c, d, e = row
        request = self._requests[number]
        if kind == answers.ASSIGNED:
            flight = self.flights[request]
            flight.prefill_engine, flight.decode_engine, flight.prefill_blocks = a, b, c
            flight.decode_blocks = flight.request.hit_blocks - c
            block_tokens = self.cluster.block_tokens
            return Assigned(request, a, b, c, flight.decode_blocks, d * block_tokens, e * block_tokens)
        if kind == answers.ADMIT:
            return Admit(request)
        if kind == answers.READ:
            return Read(request, "prefill" if a == PREFILL else "decode", b, c, d)
        if kind == answers.DECODE_START:
            return Decode(request, a)
        self._batches[self._num_batches] = number
        self._num_batches += 1
        return Prefill(a, self._num_batches - 1, tuple(self._chunks(number)))

    def _chunks(self, number: int) -> Iterator[Chunk]:
        while number != NONE:
            flight = self.state.flights[number]
            cached_tokens, new_tokens = int(flight.cached_tokens), int(flight.chunk_tokens)
            last = cached_tokens + new_tokens == flight.prompt_tokens
            yield Chunk(self._requests[number], cached_tokens, new_tokens, bool(last))
            number = int(self.state.after[number])
