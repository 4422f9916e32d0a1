"""Where KV bytes lie: geometry of a buffer of Full Blocks and of device memory.

buffer (DRAM)      slot:   [layers, block_tokens, entry bytes], padded to whole pages: one Full Block a slot
prefill HBM                [layers held, tokens, entry bytes]: two or three layers (layerwise) or all (basic)
decode HBM                 [layers, blocks * block_tokens, entry bytes]: paged, one Layer Block a page
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dualpath.core.cluster import Cluster
from dualpath.engine.store_layout import StoreLayout

_PAGE_BYTES = 4096
SCRATCH_BYTES = 64 << 10  # of a decode engine, for model traffic


# Consecutive bytes in a local and in a remote region, one row each: local offset, remote offset, bytes. [n, 3] int64
Pieces: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class BlockGeometry:
    """Byte offsets of tokens in slots of Full Blocks."""

    layers: int
    block_tokens: int
    entry_bytes: int  # one token, one layer

    @classmethod
    def of(cls, cluster: Cluster) -> BlockGeometry:
        return cls(cluster.model.layers, cluster.block_tokens, cluster.model.kv_layer_bytes)

    @property
    def layer_block_bytes(self) -> int:
        return self.block_tokens * self.entry_bytes

    @property
    def block_bytes(self) -> int:
        return self.layers * self.layer_block_bytes

    @property
    def stride_bytes(self) -> int:
        return -(-self.block_bytes // _PAGE_BYTES) * _PAGE_BYTES

    def slot_offset(self, slot: int, layer: int = 0) -> int:
        return slot * self.stride_bytes + layer * self.layer_block_bytes

    def pieces(self, slots: Sequence[int], layer: int, first_token: int, num_tokens: int, local_offset: int) -> Pieces:
        """Pair consecutive local bytes with the Layer Blocks, whole or in part, that hold tokens
        [first_token, first_token + num_tokens) of a prompt whose blocks lie in `slots`."""
        size, end = self.block_tokens, first_token + num_tokens
        blocks = np.arange(first_token // size, -(-end // size))
        starts, ends = np.maximum(blocks * size, first_token), np.minimum((blocks + 1) * size, end)
        local = local_offset + (starts - first_token) * self.entry_bytes
        begin = self.slot_offset(0, layer) + (starts - blocks * size) * self.entry_bytes
        remote = np.asarray(slots, np.int64)[blocks] * self.stride_bytes + begin
        return np.stack([local, remote, (ends - starts) * self.entry_bytes], axis=1)


def buffer_bytes(cluster: Cluster, engine: int) -> int:
    """Size of an engine's buffer: what the scheduler counts, and a decode engine's staging slots and scratch behind."""
    has_scratch = cluster.model_bytes_per_token and cluster.role_of(engine) == "decode"
    return scratch_offset(cluster, engine) + (SCRATCH_BYTES if has_scratch else 0)


def scratch_offset(cluster: Cluster, engine: int) -> int:
    """Where a decode engine's scratch begins."""
    return (buffer_slots(cluster, engine) + staging_slots(cluster, engine)) * BlockGeometry.of(cluster).stride_bytes


def buffer_slots(cluster: Cluster, engine: int) -> int:
    """Slots the scheduler may give to requests."""
    memory = cluster.memory
    prefill = cluster.role_of(engine) == "prefill"
    return (memory.prefill_buffer_bytes if prefill else memory.decode_buffer_bytes) // cluster.block_bytes


def staging_slots(cluster: Cluster, engine: int) -> int:
    """Slots of a decode engine for blocks on their way from HBM to storage."""
    return 8 if cluster.role_of(engine) == "decode" else 0


def store_layout(cluster: Cluster) -> StoreLayout:
    """What a store must have been made with to be of use: model and data type of its KV, and block size."""
    model = f"{cluster.model.name}/{cluster.model.kv_dtype}"
    return StoreLayout(model, cluster.block_tokens, BlockGeometry.of(cluster).block_bytes)
