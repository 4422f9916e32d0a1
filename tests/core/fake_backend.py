"""A backend without engines: commands take seeded random times, and every one is audited.

The audit keeps its own books from commands and events alone, so that a mistake in the scheduler's books shows.
Order of events is any that an engine could produce: reads finish in any order, a batch is computed before it is
sent, an engine's batches are sent in order, a request's DE buffer is free before the request ends.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from dualpath.core.arms import Arm
from dualpath.core.cluster import Cluster, Role
from dualpath.core.commands import Admit, Assigned, Chunk, Command, Decode, Prefill, Read
from dualpath.core.events import (
    BufferFreed,
    Event,
    PrefillComputed,
    PrefillSent,
    ReadDone,
    Request,
    TurnEnded,
)


@dataclass
class _Life:
    """What the backend has seen of one request."""

    request: Request
    assigned: Assigned | None = None
    admitted: bool = False
    reads: set[Role] = field(default_factory=set)  # started and not done
    blocks_read: int = 0
    computed_tokens: int = 0
    in_batch: bool = False
    prompt_sent: bool = False
    decoding: bool = False
    ended: bool = False


class FakeBackend:
    """`lives`: every request submitted so far. `max_delay_ns`: bound of each step's random time; small means ties."""

    def __init__(self, cluster: Cluster, arm: Arm, seed: int, max_delay_ns: int = 5) -> None:
        self.lives: dict[int, _Life] = {}
        self.commands: list[Command] = []
        self._cluster = cluster
        self._arm = arm
        self._random = random.Random(seed)
        self._max_delay_ns = max_delay_ns
        self._now_ns = 0
        self._queue: list[tuple[int, int, Event]] = []
        self._num_scheduled = 0
        self._batches_of: dict[int, list[int]] = {}  # engine -> batches not yet computed, in order
        self._computed_ns: Counter[int] = Counter()  # by engine: when its latest batch is computed
        self._chunks: dict[int, tuple[Chunk, ...]] = {}
        self._sent_ns: Counter[int] = Counter()  # by engine: when its latest batch is sent
        self._batches_seen: set[int] = set()
        self._assigned_order: dict[int, list[int]] = {}  # engine -> requests that wait for its buffer, in order
        self.prefill_buffer: Counter[int] = Counter()  # blocks in use, by engine
        self.decode_buffer: Counter[int] = Counter()
        self.decode_hbm: Counter[int] = Counter()
        self.tokens: Counter[int] = Counter()
        self.read_queue: Counter[int] = Counter()

    # --- what the loop needs ---------------------------------------------------------------------------------------

    def now_ns(self) -> int:
        return self._now_ns

    def submit(self, request: Request) -> Request:
        assert request.id not in self.lives
        self.lives[request.id] = _Life(request)
        return request

    def wait(self, until_ns: int | None) -> Sequence[Event]:
        if not self._queue:
            assert until_ns is not None, f"deadlock: {self.unfinished()}"
        if until_ns is not None and (not self._queue or self._queue[0][0] > until_ns):
            self._now_ns = max(self._now_ns, until_ns)
            return []
        self._now_ns, _, event = heapq.heappop(self._queue)
        self._note(event)
        return [event]  # alone, so that the books are those of the moment when the scheduler hears of it

    def execute(self, commands: Sequence[Command]) -> None:
        for command in commands:
            self.commands.append(command)
            match command:
                case Assigned():
                    self._assign(command)
                case Admit():
                    self._admit(command)
                case Read():
                    self._read(command)
                case Prefill():
                    self._prefill(command)
                case Decode():
                    self._decode(command)
        self._check_memories()

    # --- what tests ask --------------------------------------------------------------------------------------------

    def unfinished(self) -> list[_Life]:
        return [life for life in self.lives.values() if not life.ended]

    def check_nothing_idles(self) -> None:
        """No request is first in line for all its buffers, fits, and was not admitted; none is loaded at an idle PE."""
        memory, block_bytes = self._cluster.memory, self._cluster.block_bytes
        for number in {queue[0] for queue in self._assigned_order.values() if queue}:
            life = self.lives[number]
            assert life.assigned is not None
            if any(self._assigned_order[engine][0] != number for engine in self._buffers(life.assigned)):
                continue
            prefill_blocks = self.prefill_buffer[life.assigned.prefill_engine] + life.assigned.prefill_blocks
            decode_blocks = self.decode_buffer[life.assigned.decode_engine]
            decode_blocks += self._cluster.blocks(life.request.prompt_tokens)
            assert (
                prefill_blocks * block_bytes > memory.prefill_buffer_bytes
                or decode_blocks * block_bytes > memory.decode_buffer_bytes
            ), f"request {number} waits for nothing"
        for life in self.lives.values():
            loaded = life.admitted and not life.reads and not life.in_batch and not life.prompt_sent
            if loaded and life.assigned is not None:
                under_way = self._batches_of.get(life.assigned.prefill_engine, [])
                assert len(under_way) == self._cluster.prefill_in_flight, f"request {life.request.id} waits for nothing"

    def check_idle(self) -> None:
        """Everything has ended and nothing is held."""
        assert not self.unfinished()
        assert not self._queue
        assert not any(self._batches_of.values())
        assert not self._chunks
        for held in (self.prefill_buffer, self.decode_buffer, self.decode_hbm, self.tokens, self.read_queue):
            assert not any(held.values())

    # --- commands --------------------------------------------------------------------------------------------------

    def _assign(self, command: Assigned) -> None:
        life = self.lives[command.request]
        request = life.request
        assert life.assigned is None
        life.assigned = command
        assert self._cluster.role_of(command.prefill_engine) == "prefill"
        assert self._cluster.role_of(command.decode_engine) == "decode"
        assert command.prefill_blocks >= 0
        assert command.decode_blocks >= 0
        assert command.prefill_blocks + command.decode_blocks == request.hit_blocks
        if self._arm.read_side == "prefill-only":
            assert command.decode_blocks == 0
        prefill_node, decode_node = map(self._cluster.node_of, (command.prefill_engine, command.decode_engine))
        assert command.prefill_queue_tokens == self.read_queue[prefill_node] * self._cluster.block_tokens
        assert command.decode_queue_tokens == self.read_queue[decode_node] * self._cluster.block_tokens
        self.read_queue[prefill_node] += command.prefill_blocks
        self.read_queue[decode_node] += command.decode_blocks
        total_tokens = request.prompt_tokens + request.generate_tokens
        self.tokens[command.prefill_engine] += request.prompt_tokens
        self.tokens[command.decode_engine] += total_tokens
        self.decode_hbm[command.decode_engine] += self._cluster.blocks(total_tokens)
        for engine in self._buffers(command):
            self._assigned_order.setdefault(engine, []).append(command.request)

    @staticmethod
    def _buffers(assigned: Assigned) -> list[int]:
        """Engines whose buffer a request needs."""
        return [assigned.decode_engine] + [assigned.prefill_engine] * (assigned.prefill_blocks > 0)

    def _admit(self, command: Admit) -> None:
        life = self.lives[command.request]
        assert life.assigned is not None
        assert not life.admitted
        life.admitted = True
        for engine in self._buffers(life.assigned):
            assert self._assigned_order[engine].pop(0) == command.request, "overtaken: may starve"
        self.prefill_buffer[life.assigned.prefill_engine] += life.assigned.prefill_blocks
        self.decode_buffer[life.assigned.decode_engine] += self._cluster.blocks(life.request.prompt_tokens)

    def _read(self, command: Read) -> None:
        life = self.lives[command.request]
        assert life.admitted
        assert life.assigned is not None
        if command.side == "prefill":
            expected = (life.assigned.prefill_engine, 0, life.assigned.prefill_blocks)
        else:
            expected = (life.assigned.decode_engine, life.assigned.prefill_blocks, life.assigned.decode_blocks)
        assert (command.engine, command.first_block, command.num_blocks) == expected
        assert command.num_blocks > 0
        assert command.side not in life.reads
        life.reads.add(command.side)
        life.blocks_read += command.num_blocks
        assert life.blocks_read <= life.request.hit_blocks
        done_ns = self._later(self._now_ns)
        self._push(done_ns, ReadDone(done_ns, command.request, command.side))

    def _prefill(self, command: Prefill) -> None:
        under_way = self._batches_of.setdefault(command.engine, [])
        assert len(under_way) < self._cluster.prefill_in_flight, "a PE has too many batches"
        under_way.append(command.batch)
        assert command.batch not in self._batches_seen
        assert command.chunks
        self._batches_seen.add(command.batch)
        self._chunks[command.batch] = command.chunks
        blocks = 0
        for position, chunk in enumerate(command.chunks):
            life = self.lives[chunk.request]
            assert life.assigned is not None
            assert life.assigned.prefill_engine == command.engine
            assert life.admitted
            assert not life.reads
            assert life.blocks_read == life.request.hit_blocks
            assert not life.in_batch, "its earlier chunk's KV has not arrived yet"
            assert not life.prompt_sent
            assert chunk.new_tokens >= 1
            hit_tokens = life.request.hit_blocks * self._cluster.block_tokens
            assert chunk.cached_tokens == hit_tokens + life.computed_tokens, "chunks are disjoint and in order"
            life.computed_tokens += chunk.new_tokens
            life.in_batch = True
            assert chunk.last == (hit_tokens + life.computed_tokens == life.request.prompt_tokens)
            assert chunk.last or (self._arm.quota and position == len(command.chunks) - 1)
            blocks += self._cluster.blocks(chunk.cached_tokens + chunk.new_tokens)
        layers = min(2, self._cluster.model.layers) if self._arm.layerwise else self._cluster.model.layers
        layer_block_bytes = self._cluster.block_tokens * self._cluster.model.kv_layer_bytes
        assert blocks * layers * layer_block_bytes <= self._cluster.memory.prefill_hbm_bytes
        computed_ns = self._later(max(self._now_ns, self._computed_ns[command.engine]))
        self._computed_ns[command.engine] = computed_ns
        sent_ns = self._later(max(computed_ns, self._sent_ns[command.engine]))
        self._sent_ns[command.engine] = sent_ns
        self._push(computed_ns, PrefillComputed(computed_ns, command.engine, command.batch, self._now_ns))
        self._push(sent_ns, PrefillSent(sent_ns, command.engine, command.batch))

    def _decode(self, command: Decode) -> None:
        life = self.lives[command.request]
        assert life.assigned is not None
        assert life.assigned.decode_engine == command.engine
        assert life.prompt_sent
        assert not life.decoding
        life.decoding = True
        freed_ns = self._later(self._now_ns)
        ended_ns = self._later(freed_ns)
        self._push(freed_ns, BufferFreed(freed_ns, command.request))
        second_ns = None if life.request.generate_tokens == 1 else ended_ns
        self._push(ended_ns, TurnEnded(ended_ns, command.request, second_ns, ended_ns, None))

    def _check_memories(self) -> None:
        memory, block_bytes = self._cluster.memory, self._cluster.block_bytes
        assert max(self.prefill_buffer.values(), default=0) * block_bytes <= memory.prefill_buffer_bytes
        assert max(self.decode_buffer.values(), default=0) * block_bytes <= memory.decode_buffer_bytes
        assert max(self.decode_hbm.values(), default=0) * block_bytes <= memory.decode_hbm_bytes

    # --- events ----------------------------------------------------------------------------------------------------

    def _later(self, t_ns: int) -> int:
        return t_ns + self._random.randint(0, self._max_delay_ns)

    def _push(self, t_ns: int, event: Event) -> None:
        heapq.heappush(self._queue, (t_ns, self._num_scheduled, event))
        self._num_scheduled += 1

    def _note(self, event: Event) -> None:
        match event:
            case ReadDone(request=request, side=side):
                life = self.lives[request]
                life.reads.remove(side)
                assert life.assigned is not None
                if side == "prefill":
                    self.read_queue[self._cluster.node_of(life.assigned.prefill_engine)] -= life.assigned.prefill_blocks
                else:
                    self.read_queue[self._cluster.node_of(life.assigned.decode_engine)] -= life.assigned.decode_blocks
            case PrefillComputed(engine=engine, batch=batch):
                assert self._batches_of[engine].pop(0) == batch
            case PrefillSent(batch=batch):
                for chunk in self._chunks.pop(batch):
                    life = self.lives[chunk.request]
                    life.in_batch = False
                    if chunk.last:
                        assert life.assigned is not None
                        life.prompt_sent = True
                        self.prefill_buffer[life.assigned.prefill_engine] -= life.assigned.prefill_blocks
                        self.tokens[life.assigned.prefill_engine] -= life.request.prompt_tokens
            case BufferFreed(request=request):
                life = self.lives[request]
                assert life.assigned is not None
                self.decode_buffer[life.assigned.decode_engine] -= self._cluster.blocks(life.request.prompt_tokens)
            case TurnEnded(request=request):
                life = self.lives[request]
                assert life.assigned is not None
                assert not life.ended
                life.ended = True
                total_tokens = life.request.prompt_tokens + life.request.generate_tokens
                self.tokens[life.assigned.decode_engine] -= total_tokens
                self.decode_hbm[life.assigned.decode_engine] -= self._cluster.blocks(total_tokens)
