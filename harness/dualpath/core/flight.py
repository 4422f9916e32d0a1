"""A request between falling due and its last token, and the load all such requests put on the engines."""

from __future__ import annotations

from dataclasses import dataclass, field

from dualpath.core.budget import Budget
from dualpath.core.cluster import Cluster
from dualpath.core.events import Request


@dataclass(slots=True)
class Flight:
    """A request's state. Engines are -1 until assigned."""

    request: Request
    prefill_engine: int = -1
    decode_engine: int = -1
    prefill_blocks: int = 0  # hit blocks read on the prefill side
    decode_blocks: int = 0  # hit blocks read on the decode side
    reads_left: int = 0
    cached_tokens: int = 0  # hit tokens, later also those that earlier chunks computed
    fifo_rank: int = -1  # its place among the requests of its PE, from when its hit KV was loaded

    @property
    def total_tokens(self) -> int:
        return self.request.prompt_tokens + self.request.generate_tokens

    @property
    def assigned(self) -> bool:
        return self.prefill_engine >= 0 and self.decode_engine >= 0


@dataclass(slots=True)
class Load:
    """What engines and nodes carry, kept by the scheduler, read by placement and routes (paper 5.1)."""

    cluster: Cluster
    tokens: list[int] = field(init=False)  # tok_e: tokens of assigned, unfinished requests
    requests: list[int] = field(init=False)  # seq_e: their number
    read_queue_blocks: list[int] = field(init=False)  # read_q: by node
    decode_hbm: list[Budget] = field(init=False)  # by decode engine, from num_prefill on
    prefill_buffer: list[Budget] = field(init=False)
    decode_buffer: list[Budget] = field(init=False)

    def __post_init__(self) -> None:
        cluster, memory = self.cluster, self.cluster.memory
        self.tokens = [0] * cluster.num_engines
        self.requests = [0] * cluster.num_engines
        self.read_queue_blocks = [0] * cluster.num_nodes
        self.prefill_buffer = [
            Budget(memory.prefill_buffer_bytes // cluster.block_bytes) for _ in range(cluster.num_prefill)
        ]
        self.decode_buffer = [
            Budget(memory.decode_buffer_bytes // cluster.block_bytes) for _ in range(cluster.num_decode)
        ]
        self.decode_hbm = [Budget(memory.decode_hbm_bytes // cluster.block_bytes) for _ in range(cluster.num_decode)]

    def hbm(self, engine: int) -> Budget:
        return self.decode_hbm[engine - self.cluster.num_prefill]

    def take_prefill(self, flight: Flight, engine: int) -> None:
        flight.prefill_engine = engine
        self.tokens[engine] += flight.request.prompt_tokens
        self.requests[engine] += 1

    def take_decode(self, flight: Flight, engine: int) -> None:
        flight.decode_engine = engine
        self.tokens[engine] += flight.total_tokens
        self.requests[engine] += 1
        self.hbm(engine).reserve(self.cluster.blocks(flight.total_tokens))

    def leave_prefill(self, flight: Flight) -> None:
        self.tokens[flight.prefill_engine] -= flight.request.prompt_tokens
        self.requests[flight.prefill_engine] -= 1

    def leave_decode(self, flight: Flight) -> None:
        self.tokens[flight.decode_engine] -= flight.total_tokens
        self.requests[flight.decode_engine] -= 1
        self.hbm(flight.decode_engine).release(self.cluster.blocks(flight.total_tokens))

    def check(self) -> None:
        """Invariants; tests call this after every step."""
        assert min(self.tokens) >= 0
        assert min(self.requests) >= 0
        assert min(self.read_queue_blocks) >= 0
        for budgets in (self.prefill_buffer, self.decode_buffer, self.decode_hbm):
            for budget in budgets:
                budget.check()
