"""The canonical trace file: one Parquet row per turn, and what the file says about itself.

traces/SCHEMA.md explains the columns to people; this module is what readers and writers check against.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import pyarrow as pa

SCHEMA_VERSION = 1
META_KEY = "dualpath.trace"

MAX_TOKENS = 10_000_000  # per count and per context: ten times the longest context anybody serves
MAX_GAP_NS = 366 * 24 * 3600 * 10**9
MAX_ID_CHARS = 512

COLUMNS = pa.schema(
    [  # type: ignore[arg-type]  # the stubs see list[object]
        pa.field("trajectory", pa.string(), nullable=False),
        pa.field("turn", pa.int32(), nullable=False),  # 0, 1, 2, ... within a trajectory
        pa.field("append_tokens", pa.int32(), nullable=False),
        pa.field("generate_tokens", pa.int32(), nullable=False),
        pa.field("keep_tokens", pa.int32()),  # of the previous prompt + output; null: all of it
        pa.field("arrival_ns", pa.int64()),  # absolute recorded time on the trace's clock
        pa.field("gap_ns", pa.int64()),  # after the previous turn's end; null: not recorded
        pa.field("parent_trajectory", pa.string()),  # sub-agents only
        pa.field("parent_turn", pa.int32()),  # the parent's turn whose end starts this trajectory
        pa.field("hash_shared", pa.int32()),  # leading block hashes taken over from the previous turn
        pa.field("hash_new", pa.list_(pa.int64())),  # block hashes after those
    ]
)

HashScope = Literal["local", "global"]


class TraceMeta(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a trace file says about itself; stored as JSON under `META_KEY`."""

    source: str  # where the numbers come from, in words
    licence: str
    schema_version: int = SCHEMA_VERSION
    source_sha256: str | None = None  # of the source file; of a folder: over its files in name order
    given: tuple[str, ...] = ()  # columns copied from the source
    derived: dict[str, str] = {}  # column -> how it was worked out
    absent: tuple[str, ...] = ()  # columns the source says nothing about
    dropped: dict[str, str] = {}  # what the source had and this file has not -> why
    hash_block_tokens: int | None = None  # tokens one block hash stands for
    hash_scope: HashScope | None = None  # local: within a trajectory and its sub-agents; global: everywhere
    generator: str | None = None  # program that synthesized the trace
    seed: int | None = None
    arguments: dict[str, str] = {}
    num_trajectories: int = 0  # set by the writer
    num_turns: int = 0  # set by the writer


def encode_meta(meta: TraceMeta) -> bytes:
    return msgspec.json.encode(meta)


def decode_meta(raw: bytes) -> TraceMeta:
    """Raises msgspec.ValidationError on an unknown key or a wrong type."""
    return msgspec.json.decode(raw, type=TraceMeta)
