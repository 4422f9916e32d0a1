"""A decode engine's work: bring a prompt's KV from the DE buffer into paged device memory, generate, persist.

Threads: the loader fills device memory, the decoder runs one continuous batch over all loaded requests, the writers
take each block that is full to storage. The trace forces what is generated; the model's own greedy choice after
every token is kept as a hash, so that runs can be compared token by token.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from dualpath.core.cluster import Cluster
from dualpath.core.errors import CorruptBlockError
from dualpath.core.hops import Route
from dualpath.engine.completion import Done
from dualpath.engine.data_path import DataPath, Move
from dualpath.engine.exact import TileRows, choose_exact, layer_tile
from dualpath.engine.geometry import BlockGeometry, buffer_slots, staging_slots
from dualpath.engine.graphed_decode import GraphedDecode
from dualpath.engine.messages import BlockRef, BufferReleased, CheckedBlock, StartDecode, TurnDone
from dualpath.engine.models.model import Model
from dualpath.engine.pages import zeros
from dualpath.engine.shared_buffer import SharedBuffer
from dualpath.engine.store import SegmentWriter
from dualpath.engine.transport import Transport

_WRITERS = 2
_MOVE_BYTES = 16 << 20  # of KV on its way to device memory, about


@dataclass(slots=True)
class _Sequence:
    """A request in decode. Its tokens' KV lie in pages `work.hbm_blocks` of device memory."""

    work: StartDecode
    forced: list[int]  # the trace's output; the last one is never fed back
    kv_tokens: int  # tokens that have KV
    chosen: list[int] = field(default_factory=list)  # the model's own choices
    second_token_ns: int | None = None
    end_ns: int = 0
    stored: list[BlockRef] = field(default_factory=list)
    holds: int = 1  # why the turn is not done: generation, and every block on its way to storage
    buffer_holds: int = 1  # why the DE buffer is still needed: loading, and every prompt block on its way to storage

    @property
    def tokens_to_feed(self) -> int:
        return len(self.forced) - len(self.chosen)


class DecodeEngine:
    """Serves requests as they come. `submit` returns at once; `emit` gets BufferReleased and TurnDone."""

    def __init__(
        self,
        cluster: Cluster,
        engine: int,
        model: Model,
        transport: Transport,
        path: DataPath,
        buffer: SharedBuffer,
        writer: SegmentWriter,
        emit: Callable[[BufferReleased | TurnDone], None],
        *,
        moves_kv: bool,
        deterministic: bool,
        verify: bool,
    ) -> None:
        self._cluster = cluster
        self._engine = engine
        self._model = model
        self._transport = transport
        self._path = path
        self._buffer = buffer
        self._writer = writer
        self._emit = emit
        self._moves_kv = moves_kv
        self._deterministic = deterministic
        self._verify = verify and moves_kv
        self._geometry = BlockGeometry.of(cluster)
        self.checked: list[CheckedBlock] = []

        blocks = cluster.memory.decode_hbm_bytes // cluster.block_bytes
        self._hbm = zeros(  # [layers, blocks + 1, block tokens, E]; the last block is nobody's (graphed_decode.py)
            (cluster.model.layers, blocks + 1, cluster.block_tokens, cluster.model.kv_elements),
            model.dtype,
            model.device,
        )
        graphed = model.device != "cpu" and not deterministic and not model.shape.index_heads
        self._graphed = GraphedDecode(model, self._hbm) if graphed else None
        self._hbm_name = f"hbm/{engine}"
        transport.register(self._hbm_name, self._hbm.view(torch.uint8).view(-1))

        self._loading: queue.SimpleQueue[StartDecode] = queue.SimpleQueue()
        self._loaded: queue.SimpleQueue[_Sequence] = queue.SimpleQueue()
        self._storing: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._staging: queue.SimpleQueue[int] = queue.SimpleQueue()
        first = buffer_slots(cluster, engine)
        for slot in range(first, first + staging_slots(cluster, engine)):
            self._staging.put(slot)
        self._lock = threading.Lock()  # guards the holds of all sequences

    def start(self, spawn: Callable[[str, Callable[[], None]], None]) -> None:
        """Run loader, decoder and writers in threads of their own. spawn(name, body) starts one."""
        spawn("loader", self._load_forever)
        spawn("decoder", self._decode_forever)
        for number in range(_WRITERS):
            spawn(f"writer-{number}", self._store_forever)

    def submit(self, work: StartDecode) -> None:
        self._loading.put(work)

    # --- loader: DE buffer -> device memory ------------------------------------------------------------------------

    def _load_forever(self) -> None:
        while True:
            work = self._loading.get()
            sequence = _Sequence(
                work,
                forced=np.frombuffer(work.output_ids, dtype=np.int32).tolist(),
                kv_tokens=work.prompt_tokens,
                chosen=[work.first_token],
                end_ns=work.first_token_ns,
            )
            if self._moves_kv:
                if self._verify:
                    self._compare(work)
                self._store_prompt(sequence)
                self._load(work)
            self._release_buffer(sequence)
            if sequence.tokens_to_feed:
                self._loaded.put(sequence)
            else:
                self._release(sequence)

    def _load(self, work: StartDecode) -> None:
        """Some layers of all blocks of a route at a time, two moves under way: a link serves what comes first, and a
        whole prompt at once would hold up the layers that prefill engines send."""
        num = len(work.decode_slots)
        tokens = np.full(num, self._cluster.block_tokens)
        tokens[-1] = work.prompt_tokens - (num - 1) * self._cluster.block_tokens
        pieces = self._page_pieces(work.hbm_blocks[:num], work.decode_slots, tokens)
        bounds: dict[Route, tuple[int, int]] = {
            "prefill": (0, work.prefill_blocks),
            "decode": (work.prefill_blocks, work.hit_blocks),
            "miss": (work.hit_blocks, num),
        }
        under_way: deque[Move] = deque()
        for route, (first, end) in bounds.items():
            if end == first:
                continue
            its = int(tokens[first:end].sum())
            step = max(1, _MOVE_BYTES // (its * self._cluster.model.kv_layer_bytes))
            for layer in range(0, len(pieces), step):
                under_way.append(self._post_load(work, route, its, pieces[layer : layer + step, first:end]))
                if len(under_way) > 1:
                    under_way.popleft().wait()
        for move in under_way:
            move.wait()

    def _post_load(self, work: StartDecode, route: Route, tokens: int, pieces: NDArray[np.int64]) -> Move:
        """pieces: [layers, blocks, 3]"""
        copy = partial(self._transport.read, f"buffer/{self._engine}", self._hbm_name, pieces.reshape(-1, 3))
        return self._path.post("start", route, tokens, len(pieces), work.prefill_engine, self._engine, copy)

    def _page_pieces(self, pages: Sequence[int], slots: Sequence[int], tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """The Layer Blocks of pages of device memory with so many tokens each, and where they lie in slots of the
        buffer: [layers, blocks, 3], as Pieces."""
        layers = np.arange(self._cluster.model.layers)[:, None]
        local = (layers * self._hbm.shape[1] + np.array(pages)) * self._geometry.layer_block_bytes
        remote = np.array(slots) * self._geometry.stride_bytes + layers * self._geometry.layer_block_bytes
        num_bytes = np.broadcast_to(tokens * self._geometry.entry_bytes, local.shape)
        return np.stack([local, remote, num_bytes], axis=2)

    def _compare(self, work: StartDecode) -> None:
        """Hit blocks in the DE buffer, whichever way they came, against what was written to storage."""
        for block, ref in enumerate(work.hit_refs):
            route = "prefill" if block < work.prefill_blocks else "decode"
            found = xxhash.xxh3_64_intdigest(self._slot(work.decode_slots[block])[: self._geometry.block_bytes])
            self.checked.append(
                CheckedBlock(work.request, block, ref.key, "decode_buffer", route, ref.location.checksum, found)
            )
            if found != ref.location.checksum:
                raise CorruptBlockError(
                    f"block {ref.key.hex()} arrived in the buffer of decode engine {self._engine} on the {route} "
                    f"route with xxh3_64 {found:016x}, was written with {ref.location.checksum:016x}"
                )

    def _slot(self, slot: int) -> memoryview:
        start = self._geometry.slot_offset(slot)
        return self._buffer.view[start : start + self._geometry.stride_bytes]

    # --- decoder ---------------------------------------------------------------------------------------------------

    def _decode_forever(self) -> None:
        batch: list[_Sequence] = []
        while True:
            if not batch:
                batch.append(self._loaded.get())
            while not self._loaded.empty():
                batch.append(self._loaded.get())
            self._step(batch)
            batch = [sequence for sequence in batch if sequence.tokens_to_feed]

    def _step(self, batch: list[_Sequence]) -> None:
        """Feed one forced token of every sequence; take note of the model's choice for the next."""
        token_ids = [sequence.forced[len(sequence.chosen) - 1] for sequence in batch]
        if self._deterministic:
            choices = [self._forward_exact(*each) for each in zip(batch, token_ids, strict=True)]
        elif self._graphed is not None:
            positions = [sequence.kv_tokens for sequence in batch]
            choices = self._graphed.step(token_ids, positions, [sequence.work.hbm_blocks for sequence in batch])
        else:
            choices = self._forward(batch, torch.tensor(token_ids))
        now_ns = time.monotonic_ns() - self._path.zero_ns
        for sequence, choice in zip(batch, choices, strict=True):
            sequence.chosen.append(choice)
            sequence.kv_tokens += 1
            sequence.end_ns = now_ns
            if sequence.second_token_ns is None:
                sequence.second_token_ns = now_ns
            if sequence.kv_tokens % self._cluster.block_tokens == 0 and self._moves_kv:
                self._store_page(sequence, sequence.kv_tokens // self._cluster.block_tokens - 1)
            if not sequence.tokens_to_feed:
                self._release(sequence)

    def _forward(self, batch: list[_Sequence], token_ids: Tensor) -> list[int]:
        """The plain way, for CPUs and for sparse attention; else: graphed_decode.py."""
        model = self._model
        hidden = model.embed(token_ids)
        rotation = model.rotation(torch.tensor([sequence.kv_tokens for sequence in batch], device=hidden.device))
        for layer in range(model.shape.layers):
            queries, entries = model.project(layer, hidden, rotation)
            mixed = [
                model.attend(
                    layer, queries.rows(i, i + 1), self._write(sequence, layer, entries[i]), sequence.kv_tokens
                )
                for i, sequence in enumerate(batch)
            ]
            hidden = hidden + torch.cat(mixed)
            hidden = hidden + model.feed_forward(layer, hidden)
        return model.as_list(model.next_tokens(hidden))

    def _write(self, sequence: _Sequence, layer: int, entry: Tensor) -> Tensor:
        """Put a new token's entry [E] into its page; returns the whole context, pages in a row. [kv_tokens + 1, E]"""
        return self._write_padded(sequence, layer, entry)[: sequence.kv_tokens + 1]

    def _write_padded(self, sequence: _Sequence, layer: int, entry: Tensor) -> Tensor:
        pages = sequence.work.hbm_blocks
        last, row = divmod(sequence.kv_tokens, self._cluster.block_tokens)
        memory = self._hbm[layer]
        memory[pages[last], row] = entry
        if pages[last] - pages[0] == last:  # page ids ascend, so this means consecutive: a view will do
            return memory[pages[0] : pages[last] + 1].flatten(0, 1)
        return memory[torch.tensor(pages[: last + 1], device=memory.device)].flatten(0, 1)

    def _forward_exact(self, sequence: _Sequence, token_id: int) -> int:
        model, tile = self._model, self._cluster.block_tokens
        rows = TileRows(sequence.kv_tokens, 1, tile)
        x = rows.spread(model.embed(torch.tensor([token_id], device=model.device)))
        for layer in range(model.shape.layers):
            x = layer_tile(model, layer, x, rows, lambda at, entries: self._write_padded(sequence, at, entries[0]))
        return int(choose_exact(model, rows.take(x)[0], sequence.kv_tokens, tile))

    # --- writers: full blocks -> storage ---------------------------------------------------------------------------

    def _store_forever(self) -> None:
        while True:
            self._storing.get()()

    def _store_prompt(self, sequence: _Sequence) -> None:
        """Blocks that the prompt's new tokens have filled go to storage straight from the DE buffer."""
        work = sequence.work
        full = work.prompt_tokens // self._cluster.block_tokens
        with self._lock:
            sequence.holds += full - work.hit_blocks
            sequence.buffer_holds += full - work.hit_blocks
        for block in range(work.hit_blocks, full):
            slot = work.decode_slots[block]

            def store(block: int = block, slot: int = slot) -> None:
                self._store(sequence, block, slot)
                self._release_buffer(sequence)
                self._release(sequence)

            self._storing.put(store)

    def _store_page(self, sequence: _Sequence, block: int) -> None:
        """A block that decode has filled goes to storage through a staging slot. Waits for one to be free: storage
        that cannot keep up slows decode down, it does not grow a queue."""
        slot = self._staging.get()
        tokens = np.array([self._cluster.block_tokens])
        pieces = self._page_pieces([sequence.work.hbm_blocks[block]], [slot], tokens).reshape(-1, 3)
        with self._lock:
            sequence.holds += 1

        def store() -> None:
            self._path.move(
                "stage-out",
                "persist",
                self._cluster.block_tokens,
                self._cluster.model.layers,
                sequence.work.prefill_engine,
                self._engine,
                lambda: self._transport.write(f"buffer/{self._engine}", self._hbm_name, pieces),
            )
            self._store(sequence, block, slot)
            self._staging.put(slot)
            self._release(sequence)

        self._storing.put(store)

    def _store(self, sequence: _Sequence, block: int, slot: int) -> None:
        key = sequence.work.keys[block]

        def append() -> Done:
            location = self._writer.append(key, self._slot(slot))
            with self._lock:
                sequence.stored.append(BlockRef(key, location))
            return Done(self._writer.layout.block_bytes)

        self._path.move(
            "store",
            "persist",
            self._cluster.block_tokens,
            self._cluster.model.layers,
            sequence.work.prefill_engine,
            self._engine,
            append,
        )

    # --- ends ------------------------------------------------------------------------------------------------------

    def _release_buffer(self, sequence: _Sequence) -> None:
        with self._lock:
            sequence.buffer_holds -= 1
            free = not sequence.buffer_holds
        if free:
            self._emit(BufferReleased(time.monotonic_ns() - self._path.zero_ns, sequence.work.request))

    def _release(self, sequence: _Sequence) -> None:
        with self._lock:
            sequence.holds -= 1
            done = not sequence.holds
        if done:
            self._emit(
                TurnDone(
                    time.monotonic_ns() - self._path.zero_ns,
                    sequence.work.request,
                    sequence.second_token_ns,
                    sequence.end_ns,
                    xxhash.xxh3_64_intdigest(np.array(sequence.chosen, dtype=np.int32).tobytes()),
                    sequence.stored,
                )
            )
