"""Books of the engines' memories, kept from commands and events alone.

The scheduler says when a request is admitted, not when it gets its first part, the PE's memory: the audit hands that
out by the rule (first come, first served, at each PE), and the scheduler's books must agree.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from dualpath.core.arms import Arm
from dualpath.core.cluster import Cluster
from dualpath.core.commands import Assigned
from dualpath.core.events import Request


@dataclass(frozen=True)
class _Need:
    """What a request needs, in blocks."""

    prefill_engine: int
    decode_engine: int
    prefill_buffer: int
    prefill_hbm: int
    decode_buffer: int
    decode_hbm: int


class MemoryAudit:
    """Blocks in use, by engine."""

    def __init__(self, cluster: Cluster, arm: Arm) -> None:
        self.prefill_buffer: Counter[int] = Counter()
        self.prefill_hbm: Counter[int] = Counter()  # held from a request's PE grant on; not what a batch has in passing
        self.decode_buffer: Counter[int] = Counter()
        self.decode_hbm: Counter[int] = Counter()
        self._cluster = cluster
        self._arm = arm
        self._needs: dict[int, _Need] = {}
        self._waiting: defaultdict[int, list[int]] = defaultdict(list)  # by engine, in order of asking

    def ask(self, request: Request, assigned: Assigned) -> None:
        prompt_blocks = self._cluster.blocks(request.prompt_tokens)
        need = _Need(
            assigned.prefill_engine,
            assigned.decode_engine,
            assigned.prefill_blocks,
            0 if self._arm.layerwise else prompt_blocks,
            prompt_blocks,
            self._cluster.blocks(request.prompt_tokens + request.generate_tokens),
        )
        self._needs[request.id] = need
        self.decode_hbm[need.decode_engine] += need.decode_hbm
        if need.prefill_buffer or need.prefill_hbm:
            self._waiting[need.prefill_engine].append(request.id)
            self._grant_prefill(need.prefill_engine)
        else:
            self._waiting[need.decode_engine].append(request.id)

    def admit(self, request: int) -> None:
        """The last thing that an admitted request waited for is DE buffer, and nobody was before it."""
        need = self._needs[request]
        self._grant_prefill(need.prefill_engine)
        assert self._waiting[need.decode_engine][:1] == [request], "overtaken, or without its PE memory"
        self._waiting[need.decode_engine].pop(0)
        self.decode_buffer[need.decode_engine] += need.decode_buffer

    def prompt_sent(self, request: int) -> None:
        need = self._needs[request]
        self.prefill_buffer[need.prefill_engine] -= need.prefill_buffer
        self.prefill_hbm[need.prefill_engine] -= need.prefill_hbm

    def buffer_freed(self, request: int) -> None:
        self.decode_buffer[self._needs[request].decode_engine] -= self._needs[request].decode_buffer

    def ended(self, request: int) -> None:
        need = self._needs.pop(request)
        self.decode_hbm[need.decode_engine] -= need.decode_hbm

    def settle(self) -> None:
        """All commands of an event are given: what PE memory it freed is handed out, and everything fits."""
        for engine in range(self._cluster.num_prefill):
            self._grant_prefill(engine)
        memory, block_bytes = self._cluster.memory, self._cluster.block_bytes
        for used, has_bytes in (
            (self.prefill_buffer, memory.prefill_buffer_bytes),
            (self.prefill_hbm, memory.prefill_hbm_bytes),
            (self.decode_buffer, memory.decode_buffer_bytes),
            (self.decode_hbm, memory.decode_hbm_bytes),
        ):
            assert all(0 <= blocks * block_bytes <= has_bytes for blocks in used.values())

    def check_nobody_waits_for_nothing(self) -> None:
        for engine in range(self._cluster.num_prefill, self._cluster.num_engines):
            for request in self._waiting[engine][:1]:
                blocks = self.decode_buffer[engine] + self._needs[request].decode_buffer
                has_room = blocks * self._cluster.block_bytes <= self._cluster.memory.decode_buffer_bytes
                assert not has_room, f"request {request} waits for nothing"

    def check_idle(self) -> None:
        assert not self._needs
        assert not any(self._waiting.values())
        for used in (self.prefill_buffer, self.prefill_hbm, self.decode_buffer, self.decode_hbm):
            assert not any(used.values())

    def _grant_prefill(self, engine: int) -> None:
        """Who gets it asks for DE buffer next, behind those who have asked already."""
        memory, block_bytes = self._cluster.memory, self._cluster.block_bytes
        while self._waiting[engine]:
            need = self._needs[self._waiting[engine][0]]
            buffer_blocks = self.prefill_buffer[engine] + need.prefill_buffer
            hbm_blocks = self.prefill_hbm[engine] + need.prefill_hbm
            if buffer_blocks * block_bytes > memory.prefill_buffer_bytes:
                return
            if hbm_blocks * block_bytes > memory.prefill_hbm_bytes:
                return
            self.prefill_buffer[engine], self.prefill_hbm[engine] = buffer_blocks, hbm_blocks
            self._waiting[need.decode_engine].append(self._waiting[engine].pop(0))
