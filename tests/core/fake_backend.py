"""A backend without engines: commands take seeded random times, and every one is audited.

The audit keeps its own books from commands and events alone, so that a mistake in the scheduler's books shows.
Memories have theirs in memory_audit.py.
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
    QueuesReported,
    ReadDone,
    Request,
    TurnEnded,
)
from memory_audit import MemoryAudit


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

    @property
    def loaded(self) -> bool:
        """May be computed now."""
        if not self.admitted or self.reads or self.blocks_read < self.request.hit_blocks:
            return False
        return not self.in_batch and not self.prompt_sent


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
        self._rest_of_pass: list[int] = []  # engines whose batch of the pass that starts now is still to come
        self.memory = MemoryAudit(cluster, arm)
        self.tokens: Counter[int] = Counter()
        self.read_queue: Counter[int] = Counter()
        self.reported: Counter[int] = Counter()  # the same when it was last reported

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
            if not isinstance(command, Prefill):
                self._check_pass_is_whole()
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
        self._check_pass_is_whole()
        self.memory.settle()

    # --- what tests ask --------------------------------------------------------------------------------------------

    def unfinished(self) -> list[_Life]:
        return [life for life in self.lives.values() if not life.ended]

    def report(self) -> QueuesReported:
        """Every node reports its read queue now."""
        self.reported = self.read_queue.copy()
        return QueuesReported(self._now_ns)

    def check_nothing_idles(self) -> None:
        """Nobody waits for a DE buffer that has room; no loaded request waits at engines that could start a pass."""
        self.memory.check_nobody_waits_for_nothing()
        for life in self.lives.values():
            if life.loaded and life.assigned is not None:
                group = self._pass_group(life.assigned.prefill_engine)
                most = max(len(self._under_way(engine)) for engine in group)
                assert most >= self._cluster.prefill_in_flight, f"{life.request} waits for nothing"

    def check_idle(self) -> None:
        """Everything has ended and nothing is held."""
        assert not self.unfinished()
        assert not self._queue
        assert not any(self._batches_of.values())
        assert not self._chunks
        self.memory.check_idle()
        assert not any(self.tokens.values())
        assert not any(self.read_queue.values())

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
        seen = self.reported if self._cluster.constants.report_s else self.read_queue
        assert command.prefill_queue_tokens == seen[prefill_node] * self._cluster.block_tokens
        assert command.decode_queue_tokens == seen[decode_node] * self._cluster.block_tokens
        total_tokens = request.prompt_tokens + request.generate_tokens
        self.tokens[command.prefill_engine] += request.prompt_tokens
        self.tokens[command.decode_engine] += total_tokens
        self.memory.ask(request, command)

    def _admit(self, command: Admit) -> None:
        life = self.lives[command.request]
        assert life.assigned is not None
        assert not life.admitted
        life.admitted = True
        self.memory.admit(command.request)

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
        self.read_queue[self._cluster.node_of(command.engine)] += command.num_blocks
        life.blocks_read += command.num_blocks
        assert life.blocks_read <= life.request.hit_blocks
        done_ns = self._later(self._now_ns)
        self._push(done_ns, ReadDone(done_ns, command.request, command.side))

    def _prefill(self, command: Prefill) -> None:
        if command.engine not in self._rest_of_pass:
            self._start_pass(command.engine)
        self._rest_of_pass.remove(command.engine)
        self._under_way(command.engine).append(command.batch)
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

    def _under_way(self, engine: int) -> list[int]:
        return self._batches_of.setdefault(engine, [])

    def _pass_group(self, engine: int) -> range:
        """PEs whose passes start together."""
        size = self._cluster.pass_engines
        return range(engine // size * size, (engine // size + 1) * size)

    def _start_pass(self, engine: int) -> None:
        """Each engine of the group has room for a batch, and those that have something loaded get one."""
        self._check_pass_is_whole()
        group = self._pass_group(engine)
        for member in group:
            assert len(self._under_way(member)) < self._cluster.prefill_in_flight, "a PE has too many batches"
        assigned = [life.assigned for life in self.lives.values() if life.loaded]
        loaded_at = {each.prefill_engine for each in assigned if each is not None}
        self._rest_of_pass = [member for member in group if member in loaded_at]

    def _check_pass_is_whole(self) -> None:
        assert not self._rest_of_pass, f"engines {self._rest_of_pass} are left out of their group's pass"

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
                        self.memory.prompt_sent(chunk.request)
                        self.tokens[life.assigned.prefill_engine] -= life.request.prompt_tokens
            case BufferFreed(request=request):
                self.memory.buffer_freed(request)
            case TurnEnded(request=request):
                life = self.lives[request]
                assert life.assigned is not None
                assert not life.ended
                life.ended = True
                total_tokens = life.request.prompt_tokens + life.request.generate_tokens
                self.tokens[life.assigned.decode_engine] -= total_tokens
                self.memory.ended(request)
