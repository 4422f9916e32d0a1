"""Engine processes told what to do command by command, with nobody scheduling: for measuring what they take.

Requests go the engine's way from admission to their last token, or their memory would never be given back.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from dualpath.core.arms import Arm
from dualpath.core.cluster import Cluster, Role
from dualpath.core.commands import Admit, Chunk, Decode, Prefill, Read
from dualpath.core.events import Event, PrefillComputed, PrefillSent, ReadDone, Request, TurnEnded
from dualpath.core.flight import Flight
from dualpath.engine.backend import EngineBackend
from dualpath.engine.content import TurnContent
from dualpath.engine.direct_io import aligned_buffer
from dualpath.engine.geometry import store_layout
from dualpath.engine.messages import BlockRef, Summary
from dualpath.engine.store import SegmentWriter, create_store

Kind = TypeVar("Kind", bound=Event)


class Rig:
    """Use as a context manager: engines run inside it. directory: a new one, for a store and the engines' logs."""

    def __init__(self, cluster: Cluster, arm: Arm, directory: Path, num_stored: int = 0) -> None:
        self.cluster = cluster
        self._flights: dict[int, Flight] = {}
        self._contents: dict[int, TurnContent] = {}
        self._requests = itertools.count()
        self._batches = itertools.count()
        self._keys = itertools.count()
        store = directory / "store"
        create_store(store, store_layout(cluster))
        self.stored = self._write_blocks(store, num_stored)
        self.backend = EngineBackend(
            cluster,
            arm,
            self._flights,
            self._contents,
            lambda content, refs: None,
            store_directory=store,
            log_directory=directory,
            seed=0,
            deterministic=False,
            verify=False,
            durable="process",
            null=False,
        )

    def admit(
        self,
        cached_tokens: int,
        new_tokens: int,
        generate_tokens: int,
        engines: tuple[int, int],
        hit_side: Role | None = None,
    ) -> int:
        """A request that has its buffers. hit_side: where its cached tokens, whole blocks, are to be read."""
        number, block_tokens = next(self._requests), self.cluster.block_tokens
        hit_blocks = cached_tokens // block_tokens if hit_side else 0
        prompt_tokens = cached_tokens + new_tokens
        by_side = (hit_blocks, 0) if hit_side == "prefill" else (0, hit_blocks)
        request = Request(number, 0, 0, prompt_tokens, generate_tokens, hit_blocks)
        self._flights[number] = Flight(request, *engines, *by_side)
        num_full = (prompt_tokens + generate_tokens - 1) // block_tokens
        self._contents[number] = TurnContent(
            np.zeros(prompt_tokens, np.int32),
            np.zeros(generate_tokens, np.int32),
            [self._key() for _ in range(num_full)],
            self.stored[:hit_blocks],
        )
        self.backend.execute([Admit(number)])
        return number

    def read(self, request: int) -> tuple[int, ReadDone, int]:
        """Read a request's hit blocks: when that was said (ns), what came back, when it was heard."""
        flight = self._flights[request]
        side: Role = "prefill" if flight.prefill_blocks else "decode"
        engine = flight.prefill_engine if side == "prefill" else flight.decode_engine
        said_ns = self.backend.now_ns()
        self.backend.execute([Read(request, side, engine, 0, flight.request.hit_blocks)])
        event, heard_ns = self.wait_for(ReadDone, 1)[0]
        return said_ns, event, heard_ns

    def batch(self, requests: Sequence[int], cached_tokens: Sequence[int]) -> Prefill:
        """A forward batch that computes what is not cached of the requests' prompts. All are on one PE."""
        chunks = tuple(
            Chunk(request, cached, self._flights[request].request.prompt_tokens - cached, True)
            for request, cached in zip(requests, cached_tokens, strict=True)
        )
        return Prefill(self._flights[requests[0]].prefill_engine, next(self._batches), chunks)

    def prefill(self, batches: Sequence[Prefill]) -> tuple[int, list[PrefillComputed], list[PrefillSent]]:
        """Compute batches one behind the other: when that was said (ns), and how each ended."""
        said_ns = self.backend.now_ns()
        self.backend.execute(batches)
        computed: list[PrefillComputed] = []
        sent: list[PrefillSent] = []
        while len(sent) < len(batches):
            for event, _ in self.wait():
                if isinstance(event, PrefillComputed):
                    computed.append(event)
                elif isinstance(event, PrefillSent):
                    sent.append(event)
        return said_ns, computed, sent

    def start_decode(self, requests: Sequence[int]) -> None:
        self.backend.execute([Decode(request, self._flights[request].decode_engine) for request in requests])

    def decode(self, requests: Sequence[int]) -> list[TurnEnded]:
        """Generate until the last token of all, whose memory is then free again."""
        self.start_decode(requests)
        return [event for event, _ in self.wait_for(TurnEnded, len(requests))]

    def wait_for(self, kind: type[Kind], num: int) -> list[tuple[Kind, int]]:
        """The next events of a kind, and when each was heard; others that come are dropped."""
        found: list[tuple[Kind, int]] = []
        while len(found) < num:
            found += [(event, heard_ns) for event, heard_ns in self.wait() if isinstance(event, kind)]
        return found

    def wait(self) -> list[tuple[Event, int]]:
        events = self.backend.wait(None)
        heard_ns = self.backend.now_ns()
        for event in events:
            if isinstance(event, TurnEnded):
                del self._flights[event.request]
        return [(event, heard_ns) for event in events]

    def finish(self) -> list[Summary]:
        """End the engines; what they counted."""
        self.backend.finish()
        return self.backend.summaries

    def __enter__(self) -> Rig:
        try:
            self.backend.start()
        except BaseException:
            self.backend.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.backend.close()

    def _write_blocks(self, store: Path, num: int) -> list[BlockRef]:
        layout = store_layout(self.cluster)
        block = aligned_buffer(layout.stride_bytes)
        refs: list[BlockRef] = []
        if num:
            with SegmentWriter(store, layout, "calibration") as writer:
                for _ in range(num):
                    key = self._key()
                    refs.append(BlockRef(key, writer.append(key, block)))
        return refs

    def _key(self) -> bytes:
        return next(self._keys).to_bytes(16, "little")
