"""Tiny run directories for tests: rows given as dicts, everything else filled in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from dualpath.results.tables import TABLES

MS = 1_000_000
S = 1_000_000_000

Row = Mapping[str, Any]


def turn(trajectory: str, index: int, due_ns: int, end_ns: int, **columns: Any) -> dict[str, Any]:
    """A finished turn: times spread evenly between due and end unless given. 128 prompt tokens, 64 of them hits."""
    step = (end_ns - due_ns) // 8
    generate = columns.get("generate_tokens", 3)
    row: dict[str, Any] = {
        "request": 0,
        "trajectory": trajectory,
        "turn": index,
        "append_tokens": 64,
        "generate_tokens": 3,
        "planned_hit_tokens": 64 if index else 0,
        "hit_tokens": 64 if index else 0,
        "miss_tokens": 64 if index else 128,
        "decode_side_tokens": 0,
        "route": "prefill" if index else "none",
        "prefill_engine": 0,
        "decode_engine": 1,
        "prefill_queue_tokens": 0,
        "decode_queue_tokens": 0,
        "due_ns": due_ns,
        "released_ns": due_ns + step // 2,
        "scheduled_ns": due_ns + step,
        "read_start_ns": due_ns + 2 * step,
        "read_end_ns": due_ns + 4 * step,
        "prefill_start_ns": due_ns + 4 * step,
        "prefill_end_ns": due_ns + 5 * step,
        "first_token_ns": due_ns + 6 * step,
        "second_token_ns": due_ns + 7 * step if generate > 1 else None,
        "end_ns": end_ns,
        "persisted_ns": end_ns,
        "output_hash": 1,
        "status": "ok",
        "error": None,
    }
    return {**row, **columns}


def link(bucket_ns: int, num_bytes: int, **columns: Any) -> dict[str, Any]:
    """Bytes that one SNIC read on the prefill route, unless told otherwise."""
    row = {
        "resource": "snic",
        "node": 0,
        "engine": None,
        "direction": "read",
        "route": "prefill",
        "lane": "kv",
        "bucket_ns": bucket_ns,
        "bytes": num_bytes,
        "busy_ns": 0,
    }
    return {**row, **columns}


def write_run(
    directory: Path,
    turns: Iterable[Row],
    links: Iterable[Row] = (),
    *,
    cluster: str = "cpu-1p1d",
    prefill: tuple[int, int] = (1, 1),
    decode: tuple[int, int] = (1, 1),
    cluster_keys: Row | None = None,
    **manifest: Any,
) -> Path:
    """Write a run directory. Keyword arguments replace keys of run.json, dicts are merged."""
    directory.mkdir(parents=True)
    turns = list(turns)
    run: dict[str, Any] = {
        "schema_version": 1,
        "backend": "engine",
        "arm": "layerwise",
        "status": "ok",
        "reasons": [],
        "cluster": {
            "name": cluster,
            "model": "tiny",
            "block_tokens": 64,
            "kv_bytes_per_token": 1000,
            "prefill": {"nodes": prefill[0], "engines_per_node": prefill[1]},
            "decode": {"nodes": decode[0], "engines_per_node": decode[1]},
            "snic_bytes_per_s": 1e6,
            "cnic_bytes_per_s": 8e6,
        },
        "trace": {
            "path": "traces/smoke.parquet",
            "sha256": "ab" * 32,
            "name": "smoke",
            "scale": 1.0,
            "max_len": None,
            "agents": len({row["trajectory"] for row in turns}),
        },
        "feed": {"mode": "offline", "rate_per_s": None, "gap_scale": 0.0, "seed": 0},
        "seed": 0,
        "repeat": 0,
        "deterministic": False,
        "verify": False,
        "bucket_ns": 100 * MS,
        "commit": "0123456789abcdef",
        "dirty": False,
        "host": {"name": "box", "cpus": 2},
        "versions": {"python": "3.11"},
        "storage": {"directory": "store", "filesystem": "ext4", "direct_io": True, "note": ""},
        "started_at": "2026-01-01T00:00:00Z",
        "wall_s": 1.0,
        "coordinator": {"busy_ns": 3 * MS, "turns": len(turns)},
        "stand_ins": [["storage", "3FS", "a local directory"]],
    }
    run["cluster"].update(cluster_keys or {})
    for key, value in manifest.items():
        run[key] = {**run.get(key, {}), **value} if isinstance(value, dict) else value
    (directory / "run.json").write_text(json.dumps(run), encoding="utf-8")
    for table, rows in (("turns", turns), ("links", list(links)), ("decisions", [])):
        schema = TABLES[table]
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema), directory / f"{table}.parquet")
    return directory
