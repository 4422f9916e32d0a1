"""Control messages between the coordinator and its engines: typed structs, msgpack on the wire, never pickle."""

from __future__ import annotations

import msgspec

from dualpath.engine.network import Endpoint, NetworkCounts, NetworkSettings
from dualpath.engine.store import Location


class Message(msgspec.Struct, frozen=True, tag=True):
    """One message; the wire names its type."""


# --- coordinator -> engine -----------------------------------------------------------------------------------------


class StartClock(Message, frozen=True):
    zero_ns: int  # CLOCK_MONOTONIC at the run's time 0


class BlockRef(msgspec.Struct, frozen=True, array_like=True):
    """A persisted block."""

    key: bytes
    location: Location


class ReadBlocks(Message, frozen=True):
    """Read blocks into slots of this engine's buffer."""

    request: int
    first_block: int  # index of blocks[0] in the prompt
    blocks: list[BlockRef]
    slots: list[int]
    prefill_engine: int
    decode_engine: int


class ChunkWork(msgspec.Struct, frozen=True):
    """A request's share of a forward batch."""

    request: int
    cached_tokens: int
    token_ids: bytes  # int32, the tokens to compute
    last: bool
    prefill_tokens: int  # hit tokens [0, prefill_tokens) are in prefill_slots,
    hit_tokens: int  # [prefill_tokens, hit_tokens) in the DE buffer
    prefill_slots: list[int]
    decode_engine: int
    decode_slots: list[int]  # of the whole prompt
    hit_blocks: list[BlockRef]  # only with verification

    @property
    def new_tokens(self) -> int:
        return len(self.token_ids) // 4


class PrefillBatch(Message, frozen=True):
    batch: int
    chunks: list[ChunkWork]


class StartDecode(Message, frozen=True):
    request: int
    prompt_tokens: int
    hit_blocks: int
    prefill_blocks: int
    prefill_engine: int
    decode_slots: list[int]
    hbm_blocks: list[int]
    first_token: int  # the model's own choice, from the prefill engine
    first_token_ns: int
    output_ids: bytes  # int32, forced
    keys: list[bytes]  # of all blocks that will be full when the turn ends
    hit_refs: list[BlockRef]  # only with verification


class Connect(Message, frozen=True):
    """The engines on the other side. Answered by Connected."""

    peers: list[Endpoint]


class Shutdown(Message, frozen=True):
    pass


# --- engine -> coordinator -----------------------------------------------------------------------------------------


class Hello(Message, frozen=True):
    engine: int
    endpoint: Endpoint | None = None  # over a network


class Connected(Message, frozen=True):
    engine: int


class BlocksRead(Message, frozen=True):
    t_ns: int
    request: int
    engine: int


class BatchComputed(Message, frozen=True):
    t_ns: int
    start_ns: int
    batch: int
    first_tokens: list[tuple[int, int]]  # (request, token) of finished prompts


class BatchSent(Message, frozen=True):
    t_ns: int
    batch: int


class BufferReleased(Message, frozen=True):
    t_ns: int
    request: int


class TurnDone(Message, frozen=True):
    t_ns: int
    request: int
    second_token_ns: int | None
    end_ns: int
    output_hash: int
    stored: list[BlockRef]


class Failed(Message, frozen=True):
    engine: int
    kind: str  # name of the exception
    error: str
    trace: str


class CheckedBlock(msgspec.Struct, frozen=True):
    """A row of the `blocks` table, before the coordinator adds what it knows of the request."""

    request: int
    block: int
    key: bytes
    checkpoint: str
    route: str
    checksum_written: int
    checksum_read: int


class LinkRow(msgspec.Struct, frozen=True):
    """A row of the `links` table."""

    resource: str
    node: int
    engine: int | None
    direction: str
    route: str
    lane: str
    bucket_ns: int
    bytes: int
    busy_ns: int


class Collective(msgspec.Struct, frozen=True):
    """A row of the `collectives` table: bytes out and back after a layer, standing for a collective."""

    engine: int
    peer: int
    t_ns: int
    bytes: int  # of both directions
    latency_ns: int


class Summary(Message, frozen=True):
    """An engine's last message."""

    engine: int
    reads_direct: bool | None  # past the page cache; None where nothing was read
    reads_note: str  # why not
    links: list[LinkRow]
    blocks: list[CheckedBlock]
    network: NetworkCounts | None = None
    collectives: list[Collective] = []


class WeightsShare(msgspec.Struct, frozen=True):
    """How engines of one GPU come to one copy of the weights (shared_weights.py)."""

    board_fd: int
    ready_fd: int
    others: int  # that wait for this engine; 0: it waits itself


class Delays(msgspec.Struct, frozen=True):
    """After what time a stub engine answers, from the message on; ns."""

    read_ns: int  # blocks are in the buffer
    first_token_ns: int  # a batch is computed
    handover_ns: int  # and then sent to the decode engine
    token_ns: int  # each further token


class EngineSetup(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine process is started with. What has a default is filled in on the way to it."""

    seed: int
    checkpoint: str  # folder; empty: random weights
    layerwise: bool
    moves_kv: bool
    deterministic: bool
    verify: bool
    null: bool  # answer at once, do nothing
    store_directory: str
    durable: str
    network: NetworkSettings | None  # None: shared memory
    cluster: bytes  # msgpack of core.cluster.Cluster
    delays: Delays | None = None  # with `null`: answer after these instead of at once
    # by the coordinator
    run: str = ""  # a name of its own, or an engine left over from another run could be taken for this one's
    address: str = ""
    # by the host
    engine: int = -1
    pacer_fd: int = -1
    buffer_fds: list[int] = []  # by engine; -1 where this engine needs none
    weights: WeightsShare | None = None  # None: it has them for itself
    counts_port: bool = False  # one engine of each host reads the counters of the NIC's port
    parent_pid: int = 0  # whose end is the engine's


# --- hosts: who runs the engines of nodes that are elsewhere -------------------------------------------------------


class Present(Message, frozen=True):
    """Said by a host again and again: that it is there, and how its clock stands to the coordinator's."""

    name: str
    code: str  # digest of the sources it runs
    nodes: int  # that it can take
    run: str  # whose engines it runs; empty: nobody's
    sent_ns: int  # CLOCK_MONOTONIC there
    offset_ns: int | None = None  # to be added to its clock to get the coordinator's; None: not known yet
    error_ns: int = 0  # at most


class EngineEnded(Message, frozen=True):
    engine: int
    how: str


class ClockReply(Message, frozen=True):
    run: str  # whose coordinator answers
    sent_ns: int  # the question's
    now_ns: int  # CLOCK_MONOTONIC of the coordinator


class StartEngines(Message, frozen=True):
    setup: EngineSetup
    engines: list[int]


class Refused(Message, frozen=True):
    why: str


class Dismissed(Message, frozen=True):
    """The run is over."""


ToEngine = Connect | StartClock | ReadBlocks | PrefillBatch | StartDecode | Shutdown
ToStorage = StartClock | ReadBlocks | Shutdown
FromStorage = Hello | BlocksRead | Failed | Summary
ToHost = ClockReply | StartEngines | Refused | Dismissed
FromEngine = Hello | Connected | BlocksRead | BatchComputed | BatchSent | BufferReleased | TurnDone | Failed | Summary
ToCoordinator = FromEngine | Present | EngineEnded
