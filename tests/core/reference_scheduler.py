"""The scheduler again, in plain Python and as literal as can be: what the compiled one is compared with.

Nothing is counted along: what an engine carries, a memory holds or a NIC has before it is summed over the requests
whenever somebody asks. Who waits stands in a list in order of asking, and at every event all lists are gone through.
Numbers are looked for one by one, where the compiled code solves or bisects.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import inf

from dualpath.core.arms import Arm
from dualpath.core.cluster import Cluster, Role
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


@dataclass(eq=False, slots=True)
class Flight:
    """A request between falling due and its last token."""

    request: Request
    prefill_engine: int = -1
    decode_engine: int = -1
    to_read: dict[Role, int] = field(default_factory=lambda: {"prefill": 0, "decode": 0})  # hit blocks, by route
    unread: set[Role] = field(default_factory=set)  # sides whose storage NIC still has them before it
    has_prefill_memory: bool = False
    has_decode_buffer: bool = False
    rank: int = -1  # among the loaded, in order; -1 until then
    cached_tokens: int = 0
    in_batch: bool = False
    prompt_sent: bool = False

    @property
    def prompt_tokens(self) -> int:
        return self.request.prompt_tokens

    @property
    def total_tokens(self) -> int:
        return self.request.prompt_tokens + self.request.generate_tokens


class ReferenceScheduler:
    """`handle` as that of the scheduler. Constants are compared in tokens, memories in bytes."""

    def __init__(self, cluster: Cluster, arm: Arm) -> None:
        self._cluster = cluster
        self._arm = arm
        self._flights: dict[int, Flight] = {}  # due and not ended
        self._want_prefill_engine: list[Flight] = []
        decode_nodes = range(cluster.prefill.nodes, cluster.num_nodes)
        self._private: dict[int, list[Flight]] = {node: [] for node in decode_nodes}  # who wants one of its engines
        self._want_prefill_memory: list[Flight] = []
        self._want_decode_buffer: list[Flight] = []
        self._under_way: list[int] = []  # engines of the batches that are not computed
        self._batches: list[tuple[Chunk, ...]] = []
        self._routes_chosen: Counter[tuple[int, int]] = Counter()
        self._reported: dict[int, int] = {}
        self._num_placed = 0
        self._num_ready = 0
        self._commands: list[Command] = []

    def handle(self, event: Event) -> list[Command]:
        self._commands = []
        match event:
            case TurnDue(request=request):
                self._flights[request.id] = Flight(request)
                self._want_prefill_engine.append(self._flights[request.id])
                if self._arm.placement == "adaptive":
                    self._join_a_group(self._flights[request.id])
            case ReadDone(request=number, side=side):
                self._flights[number].unread.remove(side)
                if not self._flights[number].unread:
                    self._ready(self._flights[number])
            case PrefillComputed(engine=engine):
                self._under_way.remove(engine)
                self._start_pass(engine)
            case PrefillSent(batch=batch):
                for chunk in self._batches[batch]:
                    self._sent(chunk)
            case BufferFreed(request=number):
                self._flights[number].has_decode_buffer = False
            case TurnEnded(request=number):
                del self._flights[number]
            case QueuesReported():
                nodes = range(self._cluster.num_nodes)
                self._reported = {node: self._true_read_queue(node) for node in nodes}
        if isinstance(event, PrefillSent):
            self._grant_prefill(event.engine)  # before anything new is placed: in order of asking
        for flight in self._place():
            self._choose_route(flight)
            self._ask(flight)
        for engine in range(self._cluster.num_prefill):
            self._grant_prefill(engine)
        for engine in range(self._cluster.num_prefill, self._cluster.num_engines):
            self._grant_decode(engine)
        if isinstance(event, PrefillSent):
            self._start_pass(event.engine)
        return self._commands

    # --- what engines and nodes carry ------------------------------------------------------------------------------

    def _carried(self, engine: int) -> list[Flight]:
        """Assigned and unfinished; a PE is finished with a request when its prompt's KV has left."""
        if engine < self._cluster.num_prefill:
            return [each for each in self._flights.values() if each.prefill_engine == engine and not each.prompt_sent]
        return [each for each in self._flights.values() if each.decode_engine == engine]

    def _tokens(self, engine: int) -> int:
        """tok_e"""
        prefill = engine < self._cluster.num_prefill
        return sum(each.prompt_tokens if prefill else each.total_tokens for each in self._carried(engine))

    def _read_queue(self, node: int) -> int:
        """Blocks before a node's storage NIC, as the scheduler sees them."""
        if self._cluster.constants.report_s:
            return self._reported.get(node, 0)
        return self._true_read_queue(node)

    def _true_read_queue(self, node: int) -> int:
        blocks = 0
        for each in self._flights.values():
            if not each.has_decode_buffer:
                continue  # it waits for memory: its reads have not been given to anybody
            if "prefill" in each.unread and self._cluster.node_of(each.prefill_engine) == node:
                blocks += each.to_read["prefill"]
            if "decode" in each.unread and self._cluster.node_of(each.decode_engine) == node:
                blocks += each.to_read["decode"]
        return blocks

    def _free_hbm(self, engine: int) -> int:
        """Blocks of a DE that nobody has reserved."""
        reserved = sum(self._cluster.blocks(each.total_tokens) for each in self._carried(engine))
        return self._cluster.memory.decode_hbm_bytes // self._cluster.block_bytes - reserved

    # --- placement -------------------------------------------------------------------------------------------------

    def _place(self) -> list[Flight]:
        """Who has both engines now, in the order in which they got the second."""
        if self._arm.placement == "round-robin":
            return self._place_in_turn()
        placed = self._algorithm_1()
        for node in self._private:
            placed += self._phase_2(node)
        return placed

    def _place_in_turn(self) -> list[Flight]:
        cluster = self._cluster
        placed: list[Flight] = []
        while self._want_prefill_engine:
            flight = self._want_prefill_engine[0]
            decode_engine = cluster.num_prefill + self._num_placed % cluster.num_decode
            if self._free_hbm(decode_engine) < cluster.blocks(flight.total_tokens):
                break
            flight.prefill_engine, flight.decode_engine = self._num_placed % cluster.num_prefill, decode_engine
            self._num_placed += 1
            placed.append(self._want_prefill_engine.pop(0))
        return placed

    def _algorithm_1(self) -> list[Flight]:
        cluster, constants = self._cluster, self._cluster.constants
        placed: list[Flight] = []
        while self._want_prefill_engine:
            able = [engine for engine in range(cluster.num_prefill) if self._tokens(engine) <= constants.beta_tokens]
            queues = {engine: self._read_queue(cluster.node_of(engine)) * cluster.block_tokens for engine in able}
            short = [engine for engine in able if queues[engine] <= constants.alpha_tokens]
            if not able:
                break
            flight = self._want_prefill_engine.pop(0)
            flight.prefill_engine = min(short or able, key=self._tokens)
            if flight.decode_engine >= 0:
                placed.append(flight)
        return placed

    def _join_a_group(self, flight: Flight) -> None:
        """DE phase 1, when it falls due."""

        def group_tokens(node: int) -> int:
            carried = sum(self._tokens(engine) for engine in self._group(node))
            return carried + sum(each.total_tokens for each in self._private[node])

        self._private[min(self._private, key=group_tokens)].append(flight)

    def _phase_2(self, node: int) -> list[Flight]:
        group, private, need = self._group(node), self._private[node], self._cluster.blocks
        free = sum(self._free_hbm(engine) for engine in group)
        fitting = max(n for n in range(len(private) + 1) if sum(need(f.total_tokens) for f in private[:n]) <= free)
        tokens = sum(f.total_tokens for f in private[:fitting]) + sum(self._tokens(engine) for engine in group)
        threshold = self._cluster.constants.z_factor * tokens / len(group)
        placed: list[Flight] = []
        while private:
            flight = private[0]
            able = [engine for engine in group if self._free_hbm(engine) >= need(flight.total_tokens)]
            low = [engine for engine in able if self._tokens(engine) + flight.total_tokens <= threshold]
            if not able:
                break
            if low:
                chosen = min(low, key=lambda engine: (len(self._carried(engine)), self._tokens(engine)))
            else:
                chosen = min(able, key=self._tokens)
            private.pop(0)
            flight.decode_engine = chosen
            if flight.prefill_engine >= 0:
                placed.append(flight)
        return placed

    def _group(self, node: int) -> list[int]:
        engines = range(self._cluster.num_prefill, self._cluster.num_engines)
        return [engine for engine in engines if self._cluster.node_of(engine) == node]

    # --- routes ----------------------------------------------------------------------------------------------------

    def _choose_route(self, flight: Flight) -> None:
        request, block_tokens = flight.request, self._cluster.block_tokens
        nodes = self._cluster.node_of(flight.prefill_engine), self._cluster.node_of(flight.decode_engine)
        prefill_queue, decode_queue = self._read_queue(nodes[0]), self._read_queue(nodes[1])
        if request.hit_blocks:
            on_prefill = self._blocks_on_prefill(flight, prefill_queue, decode_queue)
            flight.to_read = {"prefill": on_prefill, "decode": request.hit_blocks - on_prefill}
            flight.unread = {side for side, blocks in flight.to_read.items() if blocks}
        blocks = flight.to_read["prefill"], flight.to_read["decode"]
        queues = prefill_queue * block_tokens, decode_queue * block_tokens
        self._commands.append(Assigned(request.id, flight.prefill_engine, flight.decode_engine, *blocks, *queues))

    def _blocks_on_prefill(self, flight: Flight, prefill_queue: int, decode_queue: int) -> int:
        hit_blocks = flight.request.hit_blocks
        match self._arm.read_side:
            case "prefill-only":
                return hit_blocks
            case "round-robin":
                pair = flight.prefill_engine, flight.decode_engine
                self._routes_chosen[pair] += 1
                return hit_blocks * (self._routes_chosen[pair] % 2)
            case "shorter-queue":
                return hit_blocks if prefill_queue < decode_queue else 0

        def both_done(on_prefill: int) -> int:
            on_decode = hit_blocks - on_prefill
            return max((prefill_queue + on_prefill) * (on_prefill > 0), (decode_queue + on_decode) * (on_decode > 0))

        return min(range(hit_blocks, -1, -1), key=both_done)  # of equals, the prefill side reads more

    # --- memory ----------------------------------------------------------------------------------------------------

    def _ask(self, flight: Flight) -> None:
        """For PE memory first, where it needs some, then for a DE buffer."""
        if flight.to_read["prefill"] or not self._arm.layerwise:
            self._want_prefill_memory.append(flight)
            self._grant_prefill(flight.prefill_engine)
        else:
            self._want_decode_buffer.append(flight)
            self._grant_decode(flight.decode_engine)

    def _grant_prefill(self, engine: int) -> None:
        cluster, memory = self._cluster, self._cluster.memory
        for flight in [each for each in self._want_prefill_memory if each.prefill_engine == engine]:
            holders = [e for e in self._flights.values() if e.has_prefill_memory and e.prefill_engine == engine]
            holders.append(flight)
            if sum(each.to_read["prefill"] for each in holders) * cluster.block_bytes > memory.prefill_buffer_bytes:
                return
            held_blocks = sum(cluster.blocks(each.prompt_tokens) for each in holders)
            if not self._arm.layerwise and held_blocks * cluster.block_bytes > memory.prefill_hbm_bytes:
                return
            self._want_prefill_memory.remove(flight)
            flight.has_prefill_memory = True
            self._want_decode_buffer.append(flight)
            self._grant_decode(flight.decode_engine)

    def _grant_decode(self, engine: int) -> None:
        cluster = self._cluster
        for flight in [each for each in self._want_decode_buffer if each.decode_engine == engine]:
            holders = [e for e in self._flights.values() if e.has_decode_buffer and e.decode_engine == engine]
            blocks = sum(cluster.blocks(each.prompt_tokens) for each in [*holders, flight])
            if blocks * cluster.block_bytes > cluster.memory.decode_buffer_bytes:
                return
            self._want_decode_buffer.remove(flight)
            flight.has_decode_buffer = True
            self._admit(flight)

    def _admit(self, flight: Flight) -> None:
        number, on_prefill, on_decode = flight.request.id, flight.to_read["prefill"], flight.to_read["decode"]
        self._commands.append(Admit(number))
        flight.cached_tokens = flight.request.hit_blocks * self._cluster.block_tokens
        if on_prefill:
            self._commands.append(Read(number, "prefill", flight.prefill_engine, 0, on_prefill))
        if on_decode:
            self._commands.append(Read(number, "decode", flight.decode_engine, on_prefill, on_decode))
        if not flight.unread:
            self._ready(flight)

    # --- prefill ---------------------------------------------------------------------------------------------------

    def _ready(self, flight: Flight) -> None:
        flight.rank = self._num_ready
        self._num_ready += 1
        self._start_pass(flight.prefill_engine)

    def _start_pass(self, engine: int) -> None:
        size = self._cluster.pass_engines
        group = [each for each in range(self._cluster.num_prefill) if each // size == engine // size]
        if max(self._under_way.count(member) for member in group) < self._cluster.prefill_in_flight:
            for member in group:
                chunks = self._select_batch(member)
                if chunks:
                    self._commands.append(Prefill(member, len(self._batches), chunks))
                    self._batches.append(chunks)
                    self._under_way.append(member)

    def _select_batch(self, engine: int) -> tuple[Chunk, ...]:
        cluster, constants = self._cluster, self._cluster.constants
        left_ns = constants.quota_s * 1e9 if self._arm.quota else inf
        layers = min(2, cluster.model.layers) if self._arm.layerwise else cluster.model.layers
        layer_block_bytes = layers * cluster.block_tokens * cluster.model.kv_layer_bytes
        left_bytes = cluster.memory.prefill_hbm_bytes
        chunks: list[Chunk] = []
        loaded = [each for each in self._carried(engine) if each.rank >= 0 and not each.in_batch]
        for flight in sorted(loaded, key=lambda each: each.rank):
            cached, missing = flight.cached_tokens, flight.prompt_tokens - flight.cached_tokens
            left_bytes -= cluster.blocks(flight.prompt_tokens) * layer_block_bytes
            costs_ns = [self._attention_ns(cached, new) for new in range(missing + 1)]
            take = max((new for new in range(missing + 1) if costs_ns[new] <= left_ns), default=0)
            if not chunks:
                take = max(take, min(missing, cluster.block_tokens))
            if left_bytes < 0 or not take:
                break
            chunks.append(Chunk(flight.request.id, cached, take, take == missing))
            flight.in_batch = True
            left_ns -= costs_ns[take]
            if take < missing:
                break
        return tuple(chunks)

    def _attention_ns(self, cached: int, new: int) -> float:
        """Exact where the rates are whole numbers."""
        constants = self._cluster.constants
        pairs = sum(cached + position + 1 for position in range(new))
        return constants.attention_ns_per_pair * pairs + constants.attention_ns_per_context * (cached + new)

    def _sent(self, chunk: Chunk) -> None:
        flight = self._flights[chunk.request]
        flight.in_batch = False
        flight.cached_tokens += chunk.new_tokens
        if chunk.last:
            flight.prompt_sent, flight.has_prefill_memory = True, False
            self._commands.append(Decode(chunk.request, flight.decode_engine))
