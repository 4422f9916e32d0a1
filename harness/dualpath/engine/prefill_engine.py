"""A prefill engine's work on one forward batch: load cached KV, compute new KV, send it on, layer by layer.

Three threads meet at each layer: the loader fills layer i+1 while the computer works on layer i and the sender
empties layer i-1. Device memory has `layers_held` slots; layer i uses slot i % layers_held. With more than two, the
moves of one layer are posted while those of the layer before are still under way. The two compute functions are the
ablation: `compute_layerwise` starts a layer as soon as it is loaded and hands it on as soon as it is computed (two
slots, or three); `compute_whole` waits for all and hands on all (as many slots as layers).
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
import xxhash

from dualpath.core.cluster import Cluster
from dualpath.core.errors import CorruptBlockError
from dualpath.engine.data_path import DataPath, Move
from dualpath.engine.exact_pass import ExactPass
from dualpath.engine.forward_pass import Chunk, Forward, ForwardPass
from dualpath.engine.geometry import BlockGeometry
from dualpath.engine.graphed_pass import GraphedPasses
from dualpath.engine.layer_moves import LayerMove, planned_loads, planned_sends
from dualpath.engine.messages import BatchComputed, BatchSent, CheckedBlock, ChunkWork, Collective, PrefillBatch
from dualpath.engine.model_traffic import ModelTraffic
from dualpath.engine.models.model import Model, Recorded
from dualpath.engine.pages import zeros
from dualpath.engine.plain_pass import PlainPass
from dualpath.engine.transport import Transport


@dataclass(slots=True)
class _Part:
    """A request's share of a batch."""

    work: ChunkWork
    chunk: Chunk
    digests: list[xxhash.xxh3_64] = field(default_factory=list)  # per hit block, with verification


class _Batch:
    """A forward batch and how far each layer is."""

    def __init__(self, number: int, parts: list[_Part], layers: int) -> None:
        self.number = number
        self.parts = parts
        self.loads: list[LayerMove] = []  # of each layer
        self.sends: list[LayerMove] = []
        self.loaded = [threading.Event() for _ in range(layers)]
        self.computed = [threading.Event() for _ in range(layers)]  # or about to be:
        self.recorded = [Recorded(None)] * layers  # who reads the layer's KV waits for this, too
        self.sent = [threading.Event() for _ in range(layers)]
        self.finished = threading.Event()  # first tokens have been told

    @property
    def chunks(self) -> list[Chunk]:
        return [part.chunk for part in self.parts]


class _UnderWay:
    """Moves of layers, in order, and what to do when those of a layer are done."""

    def __init__(self) -> None:
        self._layers: deque[tuple[list[Move], Callable[[], None]]] = deque()

    def add(self, moves: list[Move], done: Callable[[], None]) -> None:
        self._layers.append((moves, done))

    def finish_all_but(self, num: int) -> None:
        while len(self._layers) > num:
            moves, done = self._layers.popleft()
            for move in moves:
                move.wait()
            done()

    def wait_for(self, event: threading.Event | Recorded) -> None:
        """Others may wait for what is under way, so that is finished first, where there is time."""
        if not event.is_set():
            self.finish_all_but(0)
            event.wait()


class PrefillEngine:
    """Runs batches in order. `submit` returns at once; `emit` gets BatchComputed and BatchSent."""

    def __init__(
        self,
        cluster: Cluster,
        engine: int,
        model: Model,
        transport: Transport,
        path: DataPath,
        emit: Callable[[BatchComputed | BatchSent], None],
        *,
        layerwise: bool,
        moves_kv: bool,
        deterministic: bool,
        verify: bool,
    ) -> None:
        self._cluster = cluster
        self._engine = engine
        self._model = model
        self._transport = transport
        self._path = path
        self._emit = emit
        self._moves_kv = moves_kv
        self._verify = verify and moves_kv
        self._geometry = BlockGeometry.of(cluster)
        self._layers = cluster.model.layers
        self.checked: list[CheckedBlock] = []

        self._held = cluster.layers_held(layerwise)
        self._ahead = max(0, cluster.layerwise_layers - 2)  # layers whose moves are under way behind one that is moving
        rows = cluster.memory.prefill_hbm_bytes // (self._held * cluster.model.kv_layer_bytes)
        rows = rows // cluster.block_tokens * cluster.block_tokens
        self._hbm = zeros(  # [layers held, tokens + 1, E]; the last row is nobody's (graphed_pass.py)
            (self._held, rows + 1, cluster.model.kv_elements), model.dtype, model.device
        )
        self._hbm_bytes = self._hbm.view(torch.uint8).view(-1)
        self._hbm_name = f"hbm/{engine}"
        transport.register(self._hbm_name, self._hbm_bytes)
        self._layer_bytes = (rows + 1) * cluster.model.kv_layer_bytes
        self._forward = self._way_of_computing(deterministic)

        self._model_traffic = ModelTraffic(cluster, engine, transport, path) if cluster.model_bytes_per_token else None
        self._compute = self._compute_layerwise if layerwise else self._compute_whole
        self._queues: list[queue.SimpleQueue[_Batch]] = [queue.SimpleQueue() for _ in range(3)]
        slot_free = [threading.Event() for _ in range(self._held)]
        for event in slot_free:
            event.set()
        self._slot_free = slot_free  # when the layer that used the slot last has been sent; the loader's alone

    def start(self, spawn: Callable[[str, Callable[[], None]], None]) -> None:
        """Run the three stages in threads of their own. spawn(name, body) starts one."""
        spawn("loader", lambda: self._serve(0, self._load))
        spawn("computer", lambda: self._serve(1, self._compute))
        spawn("sender", lambda: self._serve(2, self._send))

    def _way_of_computing(self, deterministic: bool) -> Forward:
        model, memory = self._model, self._hbm
        if deterministic:
            return partial(ExactPass, model, memory, self._cluster.block_tokens)
        if model.device != "cpu" and model.shape.attention == "gqa" and model.dtype.itemsize == 2:
            return GraphedPasses(model, memory)
        return partial(PlainPass, model, memory)

    @property
    def collectives(self) -> list[Collective]:
        """What stood for them."""
        return self._model_traffic.rows if self._model_traffic is not None else []

    def submit(self, message: PrefillBatch) -> None:
        parts: list[_Part] = []
        row = 0
        for work in message.chunks:
            token_ids = np.frombuffer(work.token_ids, dtype=np.int32).astype(np.int64)
            part = _Part(work, Chunk(row, work.cached_tokens, token_ids))
            if self._verify:
                part.digests = [xxhash.xxh3_64() for _ in work.hit_blocks]
            parts.append(part)
            row += self._cluster.blocks(work.cached_tokens + len(token_ids)) * self._cluster.block_tokens
        assert row < self._hbm.shape[1], "the scheduler counts device memory"
        batch = _Batch(message.batch, parts, self._layers)
        if self._moves_kv:
            chunks = [(part.work, part.chunk.row) for part in parts]
            batch.loads = planned_loads(self._geometry, self._engine, chunks)
            batch.sends = planned_sends(self._geometry, chunks)
        for batches in self._queues:
            batches.put(batch)

    def _serve(self, stage: int, work: Callable[[_Batch], None]) -> None:
        while True:
            work(self._queues[stage].get())

    # --- loader ----------------------------------------------------------------------------------------------------

    def _load(self, batch: _Batch) -> None:
        under_way = _UnderWay()
        for layer in range(self._layers):
            slot = layer % self._held
            under_way.wait_for(self._slot_free[slot])
            self._slot_free[slot] = batch.sent[layer]
            moves = [self._post(move, layer) for move in batch.loads]
            under_way.add(moves, partial(self._loaded, batch, layer))
            under_way.finish_all_but(self._ahead)
        under_way.finish_all_but(0)
        if self._verify:
            for part in batch.parts:
                self._compare(part)

    def _loaded(self, batch: _Batch, layer: int) -> None:
        for part in batch.parts:
            self._digest(part, layer)
        batch.loaded[layer].set()

    def _post(self, move: LayerMove, layer: int) -> Move:
        further = (layer % self._held * self._layer_bytes, layer * self._geometry.layer_block_bytes, 0)
        copy = self._transport.write if move.stage == "forward" else self._transport.read
        return self._path.post(
            move.stage,
            move.route,
            move.tokens,
            1,
            self._engine,
            move.decode_engine,
            partial(copy, f"buffer/{move.buffer}", self._hbm_name, move.pieces + further),
        )

    def _digest(self, part: _Part, layer: int) -> None:
        """With verification: take the hit blocks' Layer Blocks of one layer into their checksums."""
        for block, digest in enumerate(part.digests):
            start = self._offset(part, layer, block * self._cluster.block_tokens)
            end = start + self._cluster.block_tokens * self._geometry.entry_bytes
            digest.update(self._hbm_bytes[start:end].cpu().numpy().data)

    def _offset(self, part: _Part, layer: int, token: int) -> int:
        """Byte offset of a chunk's token in device memory."""
        return layer % self._held * self._layer_bytes + (part.chunk.row + token) * self._geometry.entry_bytes

    def _compare(self, part: _Part) -> None:
        """A Full Block is exactly its Layer Blocks in a row, so its checksum can be taken as they arrive."""
        for block, (ref, digest) in enumerate(zip(part.work.hit_blocks, part.digests, strict=True)):
            route = "prefill" if block * self._cluster.block_tokens < part.work.prefill_tokens else "decode"
            found = digest.intdigest()
            self.checked.append(
                CheckedBlock(part.work.request, block, ref.key, "prefill_hbm", route, ref.location.checksum, found)
            )
            if found != ref.location.checksum:
                raise CorruptBlockError(
                    f"block {ref.key.hex()} arrived in the HBM of prefill engine {self._engine} on the {route} route "
                    f"with xxh3_64 {found:016x}, was written with {ref.location.checksum:016x}"
                )

    # --- computer --------------------------------------------------------------------------------------------------

    def _compute_layerwise(self, batch: _Batch) -> None:
        batch.loaded[0].wait()
        start_ns = time.monotonic_ns()
        forward = self._forward(batch.chunks)
        for layer in range(self._layers):
            batch.loaded[layer].wait()
            self._layer(batch, forward, layer)
            batch.recorded[layer] = self._model.recorded()  # not waited for: the next layer is launched behind it
            batch.computed[layer].set()
        self._finish(batch, forward.choices(), start_ns)

    def _compute_whole(self, batch: _Batch) -> None:
        batch.loaded[-1].wait()
        start_ns = time.monotonic_ns()
        forward = self._forward(batch.chunks)
        for layer in range(self._layers):
            self._layer(batch, forward, layer)
        self._model.recorded().wait()
        for layer in range(self._layers):
            batch.computed[layer].set()
        self._finish(batch, forward.choices(), start_ns)

    def _layer(self, batch: _Batch, forward: ForwardPass, layer: int) -> None:
        forward.layer(layer)
        if self._model_traffic is not None:
            self._model.recorded().wait()  # a collective begins when its layer has been computed
            self._model_traffic.exchange(sum(chunk.new for chunk in batch.chunks))

    def _finish(self, batch: _Batch, choices: list[int], start_ns: int) -> None:
        zero_ns = self._path.zero_ns
        first_tokens = [
            (part.work.request, token) for part, token in zip(batch.parts, choices, strict=True) if part.work.last
        ]
        self._emit(BatchComputed(time.monotonic_ns() - zero_ns, start_ns - zero_ns, batch.number, first_tokens))
        batch.finished.set()

    # --- sender ----------------------------------------------------------------------------------------------------

    def _send(self, batch: _Batch) -> None:
        under_way = _UnderWay()
        for layer in range(self._layers):
            under_way.wait_for(batch.computed[layer])
            under_way.wait_for(batch.recorded[layer])
            moves = [self._post(move, layer) for move in batch.sends]
            under_way.add(moves, batch.sent[layer].set)
            under_way.finish_all_but(self._ahead)
        under_way.finish_all_but(0)
        batch.finished.wait()  # a batch is computed before it is sent, for the scheduler too
        self._emit(BatchSent(time.monotonic_ns() - self._path.zero_ns, batch.number))
