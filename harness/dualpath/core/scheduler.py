"""The scheduler: one state machine for all requests. Events in, commands out.

    TurnDue -> placement -> route -> Assigned -> buffers granted -> Admit, Read* -> ReadDone*
            -> Prefill (batch) -> PrefillComputed -> PrefillSent -> Decode -> BufferFreed -> TurnEnded

The real engine and the simulator both run this very code (DESIGN: one scheduler, two backends).
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from dualpath.core.arms import Arm
from dualpath.core.batch import BatchLimits, Candidate, select_batch
from dualpath.core.budget import Budget
from dualpath.core.cluster import Cluster
from dualpath.core.commands import Admit, Assigned, Chunk, Command, Decode, Prefill, Read
from dualpath.core.events import (
    BufferFreed,
    Event,
    PrefillComputed,
    PrefillSent,
    ReadDone,
    TurnDue,
    TurnEnded,
)
from dualpath.core.flight import Flight, Load
from dualpath.core.placement import AdaptivePlacement, RoundRobinPlacement
from dualpath.core.routes import READ_SIDES


@dataclass(slots=True)
class _PrefillEngine:
    """A PE as the scheduler knows it: loaded requests in FIFO order, and how many batches it has not computed."""

    ready: deque[Flight] = field(default_factory=deque)
    num_batches: int = 0


class Scheduler:
    """Serves requests on a cluster under an arm. `flights` holds every request that is due and not ended."""

    def __init__(self, cluster: Cluster, arm: Arm) -> None:
        self.cluster = cluster
        self.arm = arm
        self.load = Load(cluster)
        self.flights: dict[int, Flight] = {}
        self._placement = (RoundRobinPlacement if arm.placement == "round-robin" else AdaptivePlacement)(cluster)
        self._read_side = READ_SIDES[arm.read_side]
        self._routes_chosen: Counter[tuple[int, int]] = Counter()  # by the request's pair of engines
        self._waiting: list[Flight] = []  # assigned, no buffers yet, in order
        self._engines = [_PrefillEngine() for _ in range(cluster.num_prefill)]
        self._batches: dict[int, tuple[Chunk, ...]] = {}
        self._num_batches = 0
        self._num_ready = 0
        layers_held = min(2, cluster.model.layers) if arm.layerwise else cluster.model.layers
        self._limits = BatchLimits(
            quota_ns=cluster.constants.quota_s * 1e9 if arm.quota else None,
            attention_ns_per_pair=cluster.constants.attention_ns_per_pair,
            hbm_blocks=cluster.memory.prefill_hbm_bytes
            // (layers_held * cluster.block_tokens * cluster.model.kv_layer_bytes),
            block_tokens=cluster.block_tokens,
        )

    def handle(self, event: Event) -> list[Command]:
        """Take one event; returns what is to be done now, in order."""
        commands: list[Command] = []
        match event:
            case TurnDue():
                flight = Flight(event.request)
                self.flights[event.request.id] = flight
                self._placement.enqueue(flight)
                self._assign(commands)
                self._grant(commands)
            case ReadDone():
                self._read_done(event, commands)
                self._assign(commands)
            case PrefillComputed():
                self._engines[event.engine].num_batches -= 1
                self._start_batch(event.engine, commands)
            case PrefillSent():
                self._prefill_sent(event, commands)
                self._assign(commands)
                self._grant(commands)
                self._start_batch(event.engine, commands)
            case BufferFreed():
                flight = self.flights[event.request]
                self._decode_buffer(flight).release(self.cluster.blocks(flight.request.prompt_tokens))
                self._grant(commands)
            case TurnEnded():
                self.load.leave_decode(self.flights.pop(event.request))
                self._assign(commands)
                self._grant(commands)
        return commands

    def _assign(self, commands: list[Command]) -> None:
        """Place what can be placed and choose each request's route."""
        for flight in self._placement.place(self.load):
            hit_blocks = flight.request.hit_blocks
            queues = self.load.read_queue_blocks
            prefill_node = self.cluster.node_of(flight.prefill_engine)
            decode_node = self.cluster.node_of(flight.decode_engine)
            prefill_queue, decode_queue = queues[prefill_node], queues[decode_node]
            if hit_blocks:
                pair = flight.prefill_engine, flight.decode_engine
                flight.prefill_blocks = self._read_side(
                    hit_blocks, prefill_queue, decode_queue, self._routes_chosen[pair]
                )
                flight.decode_blocks = hit_blocks - flight.prefill_blocks
                self._routes_chosen[pair] += 1
                queues[prefill_node] += flight.prefill_blocks
                queues[decode_node] += flight.decode_blocks
            self._waiting.append(flight)
            commands.append(
                Assigned(
                    flight.request.id,
                    flight.prefill_engine,
                    flight.decode_engine,
                    flight.prefill_blocks,
                    flight.decode_blocks,
                    prefill_queue * self.cluster.block_tokens,
                    decode_queue * self.cluster.block_tokens,
                )
            )

    def _grant(self, commands: list[Command]) -> None:
        """Give buffers in order of assignment. A request that must wait for a buffer holds back later requests
        that want the same buffer, or small requests would starve it; other buffers stay open."""
        short: set[int] = set()
        still_waiting: list[Flight] = []
        for flight in self._waiting:
            prefill_buffer = self.load.prefill_buffer[flight.prefill_engine]
            prompt_blocks = self.cluster.blocks(flight.request.prompt_tokens)
            wanted = {flight.decode_engine} | ({flight.prefill_engine} if flight.prefill_blocks else set())
            fits = prefill_buffer.fits(flight.prefill_blocks) and self._decode_buffer(flight).fits(prompt_blocks)
            if not fits or wanted & short:
                short |= wanted
                still_waiting.append(flight)
                continue
            prefill_buffer.reserve(flight.prefill_blocks)
            self._decode_buffer(flight).reserve(prompt_blocks)
            self._admit(flight, commands)
        self._waiting = still_waiting

    def _admit(self, flight: Flight, commands: list[Command]) -> None:
        request = flight.request
        commands.append(Admit(request.id))
        flight.cached_tokens = request.hit_blocks * self.cluster.block_tokens
        if flight.prefill_blocks:
            commands.append(Read(request.id, "prefill", flight.prefill_engine, 0, flight.prefill_blocks))
            flight.reads_left += 1
        if flight.decode_blocks:
            commands.append(
                Read(request.id, "decode", flight.decode_engine, flight.prefill_blocks, flight.decode_blocks)
            )
            flight.reads_left += 1
        if not flight.reads_left:
            self._ready(flight, commands)

    def _read_done(self, event: ReadDone, commands: list[Command]) -> None:
        flight = self.flights[event.request]
        if event.side == "prefill":
            self.load.read_queue_blocks[self.cluster.node_of(flight.prefill_engine)] -= flight.prefill_blocks
        else:
            self.load.read_queue_blocks[self.cluster.node_of(flight.decode_engine)] -= flight.decode_blocks
        flight.reads_left -= 1
        if not flight.reads_left:
            self._ready(flight, commands)

    def _ready(self, flight: Flight, commands: list[Command]) -> None:
        flight.fifo_rank = self._num_ready
        self._num_ready += 1
        self._engines[flight.prefill_engine].ready.append(flight)
        self._start_batch(flight.prefill_engine, commands)

    def _start_batch(self, engine: int, commands: list[Command]) -> None:
        state = self._engines[engine]
        if state.num_batches == self.cluster.prefill_in_flight or not state.ready:
            return
        candidates = (
            Candidate(flight.request.id, flight.cached_tokens, flight.request.prompt_tokens - flight.cached_tokens)
            for flight in state.ready
        )
        chunks = tuple(
            Chunk(candidate.request, candidate.cached_tokens, take, last=take == candidate.new_tokens)
            for candidate, take in select_batch(candidates, self._limits)
        )
        assert chunks, "a loaded request always fits an idle engine: Cluster.check_fits saw to it"
        for _ in chunks:
            state.ready.popleft()
        state.num_batches += 1
        self._batches[self._num_batches] = chunks
        commands.append(Prefill(engine, self._num_batches, chunks))
        self._num_batches += 1

    def _prefill_sent(self, event: PrefillSent, commands: list[Command]) -> None:
        for chunk in self._batches.pop(event.batch):
            flight = self.flights[chunk.request]
            if not chunk.last:
                flight.cached_tokens += chunk.new_tokens
                # Back to its place: chunks of several requests may be under way, and the first goes first.
                ready = self._engines[event.engine].ready
                place = 0
                while place < len(ready) and ready[place].fifo_rank < flight.fifo_rank:
                    place += 1
                ready.insert(place, flight)
                continue
            self.load.leave_prefill(flight)
            self.load.prefill_buffer[flight.prefill_engine].release(flight.prefill_blocks)
            commands.append(Decode(flight.request.id, flight.decode_engine))

    def _decode_buffer(self, flight: Flight) -> Budget:
        return self.load.decode_buffer[flight.decode_engine - self.cluster.num_prefill]
