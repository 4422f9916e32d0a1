"""The real engine behind the scheduler: commands become messages to processes, their messages become events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from dualpath.core.arms import Arm
from dualpath.core.cluster import Cluster
from dualpath.core.commands import Admit, Assigned, Chunk, Command, Decode, Prefill, Read
from dualpath.core.errors import CorruptBlockError, DualpathError, ModelError, StoreError, WorkerError
from dualpath.core.events import (
    BufferFreed,
    Event,
    PrefillComputed,
    PrefillSent,
    ReadDone,
    TurnEnded,
)
from dualpath.core.flight import Flight
from dualpath.engine.content import TurnContent
from dualpath.engine.geometry import buffer_slots
from dualpath.engine.messages import (
    BatchComputed,
    BatchSent,
    BlockRef,
    BlocksRead,
    BufferReleased,
    ChunkWork,
    Connect,
    Connected,
    Delays,
    EngineSetup,
    Failed,
    FromEngine,
    Hello,
    PrefillBatch,
    ReadBlocks,
    Shutdown,
    StartClock,
    StartDecode,
    Summary,
    TurnDone,
)
from dualpath.engine.network import Endpoint, NetworkSettings, NixlError
from dualpath.engine.processes import EngineProcesses, JoinedHost, Listening
from dualpath.engine.rdma.settings import RdmaError
from dualpath.engine.slots import Slots

_ERRORS: dict[str, type[DualpathError]] = {
    error.__name__: error for error in (CorruptBlockError, ModelError, StoreError, RdmaError, NixlError)
}


class EngineBackend:
    """A `core.loop.Backend` over engine processes. Use as a context manager; `start` before the loop.

    flights: the scheduler's, to know a request's engines. contents: by request, kept up by whoever admits
    turns. stored: told the blocks that a turn has left in storage, before the loop hears that it ended. listening:
    for the hosts that are to run remote_nodes.
    """

    def __init__(
        self,
        cluster: Cluster,
        arm: Arm,
        flights: dict[int, Flight],
        contents: dict[int, TurnContent],
        stored: Callable[[TurnContent, list[BlockRef]], None],
        *,
        store_directory: Path,
        log_directory: Path,
        seed: int,
        deterministic: bool,
        verify: bool,
        durable: str,
        null: bool,
        delays: Delays | None = None,
        checkpoint: Path | None = None,
        network: NetworkSettings | None = None,
        listening: Listening | None = None,
        remote_nodes: Sequence[int] = (),
    ) -> None:
        self._cluster = cluster
        self._arm = arm
        self._flights = flights
        self._contents = contents
        self._stored = stored
        self._verify = verify
        self._setup = EngineSetup(
            seed=seed,
            checkpoint=str(checkpoint.absolute()) if checkpoint is not None else "",
            layerwise=arm.layerwise,
            moves_kv=arm.moves_kv,
            deterministic=deterministic,
            verify=verify,
            null=null,
            store_directory=str(store_directory.absolute()),
            durable=durable,
            network=network,
            cluster=msgspec.msgpack.encode(cluster),
            delays=delays,
        )
        self._processes = EngineProcesses(log_directory, listening)
        self._remote_nodes = remote_nodes
        self._zero_ns = 0
        self._local: list[Event] = []  # events that need no engine
        self._batch_engine: dict[int, int] = {}
        self._first_token: dict[int, tuple[int, int]] = {}  # request -> (time, token)
        self._prefill_buffer = [Slots(buffer_slots(cluster, engine)) for engine in range(cluster.num_prefill)]
        self._decode_buffer = [Slots(buffer_slots(cluster, engine)) for engine in self._decode_engines]
        hbm_blocks = cluster.memory.decode_hbm_bytes // cluster.block_bytes
        self._decode_hbm = [Slots(hbm_blocks) for _ in self._decode_engines]
        self.summaries: list[Summary] = []

    @property
    def _decode_engines(self) -> range:
        return range(self._cluster.num_prefill, self._cluster.num_engines)

    def start(self) -> None:
        """Start the engines and, once all are ready, the run's clock. Raises WorkerError or StoreError."""
        cluster = self._cluster
        engines = range(cluster.num_engines)
        remote = [[engine for engine in engines if cluster.node_of(engine) == node] for node in self._remote_nodes]
        local = [engine for engine in engines if cluster.node_of(engine) not in self._remote_nodes]
        self._processes.start(self._setup, local, remote)
        endpoints: list[Endpoint] = []
        for message in self._processes.answers():
            self._refuse_failure(message)
            assert isinstance(message, Hello), "an engine's first message, if it has not failed"
            if message.endpoint is not None:
                endpoints.append(message.endpoint)
        if endpoints:
            self._connect(endpoints)
        self._processes.compare_clocks()
        self._zero_ns = time.monotonic_ns()
        for engine in range(cluster.num_engines):
            self._processes.send(engine, StartClock(self._zero_ns - self._processes.clock_offset_ns(engine)))

    def _connect(self, endpoints: list[Endpoint]) -> None:
        """Tell each side the other's ends of queue pairs."""
        num_prefill = self._cluster.num_prefill
        for engine in range(self._cluster.num_engines):
            others = [each for each in endpoints if (each.engine < num_prefill) != (engine < num_prefill)]
            self._processes.send(engine, Connect(others))
        for message in self._processes.answers():
            self._refuse_failure(message)
            assert isinstance(message, Connected), "what an engine says to Connect, if it has not failed"

    def now_ns(self) -> int:
        return time.monotonic_ns() - self._zero_ns

    def wait(self, until_ns: int | None) -> Sequence[Event]:
        if self._local:
            events, self._local = self._local, []
            return events
        timeout_s = 1.0 if until_ns is None else min(1.0, (until_ns - self.now_ns()) / 1e9)
        return [event for message in self._processes.receive(timeout_s) for event in self._event(message)]

    def execute(self, commands: Sequence[Command]) -> None:
        for command in commands:
            match command:
                case Assigned():
                    pass
                case Admit(request=request):
                    self._give_buffers(request)
                case Read():
                    self._read(command)
                case Prefill():
                    self._prefill(command)
                case Decode():
                    self._decode(command)

    def finish(self) -> list[WorkerError]:
        """Ask every engine that still lives for its counts; they then exit. Returns why others did not answer."""
        self.summaries, errors = self._processes.last_messages(Shutdown())
        return errors

    @property
    def hosts(self) -> list[JoinedHost]:
        """That have joined."""
        return list(self._processes.hosts.values())

    def close(self) -> None:
        self._processes.close()

    def __enter__(self) -> EngineBackend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- commands --------------------------------------------------------------------------------------------------

    def _give_buffers(self, request: int) -> None:
        flight = self._flights[request]
        if flight.prefill_blocks:
            self._prefill_buffer[flight.prefill_engine].take(request, flight.prefill_blocks)
        prompt_blocks = self._cluster.blocks(flight.request.prompt_tokens)
        self._decode_buffer[self._decode_index(flight)].take(request, prompt_blocks)

    def _read(self, command: Read) -> None:
        if not self._arm.moves_kv:
            self._local.append(ReadDone(self.now_ns(), command.request, command.side))
            return
        flight = self._flights[command.request]
        blocks = slice(command.first_block, command.first_block + command.num_blocks)
        if command.side == "prefill":
            slots = self._prefill_buffer[command.engine].of(command.request)
        else:
            slots = self._decode_buffer[self._decode_index(flight)].of(command.request)[blocks]
        self._processes.send(
            command.engine,
            ReadBlocks(
                command.request,
                command.first_block,
                self._contents[command.request].hit_refs[blocks],
                slots,
                flight.prefill_engine,
                flight.decode_engine,
            ),
        )

    def _prefill(self, command: Prefill) -> None:
        self._batch_engine[command.batch] = command.engine
        self._processes.send(
            command.engine, PrefillBatch(command.batch, [self._chunk(chunk) for chunk in command.chunks])
        )

    def _chunk(self, chunk: Chunk) -> ChunkWork:
        flight, content = self._flights[chunk.request], self._contents[chunk.request]
        block_tokens = self._cluster.block_tokens
        prefill_slots = self._prefill_buffer[flight.prefill_engine].of(chunk.request) if flight.prefill_blocks else []
        return ChunkWork(
            chunk.request,
            chunk.cached_tokens,
            content.prompt_ids[chunk.cached_tokens : chunk.cached_tokens + chunk.new_tokens].tobytes(),
            chunk.last,
            flight.prefill_blocks * block_tokens,
            flight.request.hit_blocks * block_tokens,
            prefill_slots,
            flight.decode_engine,
            self._decode_buffer[self._decode_index(flight)].of(chunk.request),
            content.hit_refs if self._verify else [],
        )

    def _decode(self, command: Decode) -> None:
        flight, content = self._flights[command.request], self._contents[command.request]
        index = self._decode_index(flight)
        if flight.prefill_blocks:
            self._prefill_buffer[flight.prefill_engine].give_back(command.request)
        first_token_ns, first_token = self._first_token.pop(command.request)
        self._processes.send(
            command.engine,
            StartDecode(
                command.request,
                flight.request.prompt_tokens,
                flight.request.hit_blocks,
                flight.prefill_blocks,
                flight.prefill_engine,
                self._decode_buffer[index].of(command.request),
                self._decode_hbm[index].take(command.request, self._cluster.blocks(flight.total_tokens)),
                first_token,
                first_token_ns,
                content.output_ids.tobytes(),
                content.keys,
                content.hit_refs if self._verify else [],
            ),
        )

    def _decode_index(self, flight: Flight) -> int:
        return flight.decode_engine - self._cluster.num_prefill

    # --- events ----------------------------------------------------------------------------------------------------

    def _event(self, message: FromEngine) -> Iterable[Event]:
        match message:
            case BlocksRead(t_ns=t_ns, request=request, engine=engine):
                yield ReadDone(t_ns, request, self._cluster.role_of(engine))
            case BatchComputed():
                for request, token in message.first_tokens:
                    self._first_token[request] = (message.t_ns, token)
                engine = self._batch_engine[message.batch]
                yield PrefillComputed(message.t_ns, engine, message.batch, message.start_ns)
            case BatchSent():
                yield PrefillSent(message.t_ns, self._batch_engine.pop(message.batch), message.batch)
            case BufferReleased():
                flight = self._flights[message.request]
                self._decode_buffer[self._decode_index(flight)].give_back(message.request)
                yield BufferFreed(message.t_ns, message.request)
            case TurnDone():
                flight = self._flights[message.request]
                self._decode_hbm[self._decode_index(flight)].give_back(message.request)
                self._stored(self._contents.pop(message.request), message.stored)
                yield TurnEnded(
                    message.t_ns, message.request, message.second_token_ns, message.end_ns, message.output_hash
                )
            case _:
                self._refuse_failure(message)

    def _refuse_failure(self, message: FromEngine) -> None:
        if isinstance(message, Failed):
            kind = _ERRORS.get(message.kind, WorkerError)
            role = self._cluster.role_of(message.engine)
            prefix = "" if message.kind in _ERRORS else f"{role} engine {message.engine}: {message.kind}: "
            error = kind(f"{prefix}{message.error}")
            error.add_note(message.trace)
            raise error
