"""Schemas of the raw tables of a run directory. Rows only: every number shown is computed from these later.

All times are integer nanoseconds of the run's clock (0 = the feed's start). A null time means: did not happen.
"""

from __future__ import annotations

import pyarrow as pa


def _schema(columns: dict[str, pa.DataType]) -> pa.Schema:
    return pa.schema(columns)


TURNS = _schema(
    {
        "request": pa.int64(),  # its number in the run; decisions and blocks name it
        "trajectory": pa.string(),
        "turn": pa.int32(),
        "append_tokens": pa.int32(),
        "generate_tokens": pa.int32(),
        "planned_hit_tokens": pa.int32(),  # what the trace alone implies: full blocks of kept context
        "hit_tokens": pa.int32(),  # what the prefix index found persisted, and the engines loaded
        "miss_tokens": pa.int32(),  # prompt - hit: computed by the prefill engine
        "decode_side_tokens": pa.int32(),  # hit tokens read on the decode side; the rest on the prefill side
        "route": pa.string(),  # prefill | decode | split | none (no hit) | skipped (oracle)
        "prefill_engine": pa.int32(),
        "decode_engine": pa.int32(),
        "prefill_queue_tokens": pa.int64(),  # read queue of the PE's node when the route was chosen
        "decode_queue_tokens": pa.int64(),  # likewise of the DE's node
        "due_ns": pa.int64(),
        "released_ns": pa.int64(),  # told to the scheduler: the turn before has ended and its blocks are persisted
        "scheduled_ns": pa.int64(),  # both engines assigned
        "read_start_ns": pa.int64(),  # buffers granted, read issued
        "read_end_ns": pa.int64(),  # every hit block is in a PE or DE buffer
        "prefill_start_ns": pa.int64(),
        "prefill_end_ns": pa.int64(),  # the prompt's KV is complete in the DE buffer
        "first_token_ns": pa.int64(),
        "second_token_ns": pa.int64(),  # null where generate_tokens == 1
        "end_ns": pa.int64(),  # last token
        "persisted_ns": pa.int64(),  # the turn's last full block is acknowledged by the store
        "output_hash": pa.uint64(),  # over the greedy token ids the model chose; null in a null or simulated run
        "status": pa.string(),  # ok | unfinished
        "error": pa.string(),
    }
)

LINKS = _schema(
    {
        "resource": pa.string(),  # snic | cnic | dram; port: what a NIC's port itself has counted
        "node": pa.int32(),  # nodes are numbered through: prefill nodes first, then decode nodes
        "engine": pa.int32(),  # numbered through likewise; null for a node's resource (snic, dram, port)
        "direction": pa.string(),  # read | write, as seen from the host (a NIC reads PCIe, DRAM is read)
        "route": pa.string(),  # prefill | decode (the hit KV's route) | miss | persist; all
        "lane": pa.string(),  # kv | model; all
        "bucket_ns": pa.int64(),  # start of the time bucket; its width is run.json's bucket_ns
        "bytes": pa.int64(),
        "busy_ns": pa.int64(),  # time of the bucket that the paced link was serving; 0 where native
    }
)

DECISIONS = _schema(
    {
        "index": pa.int64(),  # order in which the scheduler handled events
        "t_ns": pa.int64(),
        "cost_ns": pa.int64(),  # the scheduler's own time for this event
        "event": pa.string(),  # JSON: what it saw
        "commands": pa.string(),  # JSON: what it chose
    }
)

BLOCKS = _schema(
    {
        "request": pa.int64(),
        "block": pa.int32(),  # index in the prompt, of 64 tokens
        "key": pa.string(),  # hex of the chained block key
        "checkpoint": pa.string(),  # where it was checked: storage | prefill_hbm | decode_buffer
        "route": pa.string(),  # prefill | decode: the side that read it
        "engine": pa.int32(),
        "checksum_written": pa.uint64(),
        "checksum_read": pa.uint64(),
    }
)

PASSES = _schema(
    {
        "group": pa.int32(),  # of PEs whose forward passes run together
        "start_ns": pa.int64(),
        "end_ns": pa.int64(),
        "busy_engines": pa.int32(),  # PEs that had something to compute
        "requests": pa.int32(),
        "new_tokens": pa.int32(),
        "context_tokens": pa.int64(),  # cached and new
        "attention_max_ns": pa.float64(),  # of the PE with most attention time
        "attention_mean_ns": pa.float64(),  # over all PEs of the group
    }
)

COLLECTIVES = _schema(
    {
        "engine": pa.int32(),  # the prefill engine whose pass waited
        "peer": pa.int32(),  # the decode engine that it exchanged bytes with
        "t_ns": pa.int64(),
        "bytes": pa.int64(),  # out and back
        "latency_ns": pa.int64(),
    }
)

TABLES = {
    "turns": TURNS,
    "links": LINKS,
    "decisions": DECISIONS,
    "blocks": BLOCKS,
    "passes": PASSES,
    "collectives": COLLECTIVES,
}
