"""Mooncake JSON lines: one request per line in time order, cumulative, 512-token blocks, global hash ids.

Sessions, gaps, sub-agents and kept lengths have no place in the format; sharing lives on in the hash ids.
Requests are held in memory to sort them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dualpath.core.errors import TraceError
from dualpath.core.trajectory import Trajectory
from dualpath.trace.reader import TraceFile
from dualpath.trace.select import families
from dualpath.trace.tokens import ROOT_KEY, TokenStream, block_key

BLOCK_TOKENS = 512
_NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class ExportReport:
    path: Path
    out: Path
    num_requests: int
    notes: tuple[str, ...]  # what was derived or dropped


@dataclass(frozen=True, slots=True)
class _Request:
    timestamp_ms: int
    order: int  # in the trace; ties in time keep it
    input_length: int
    output_length: int
    hash_ids: list[int]


def write(trace: TraceFile, out: Path) -> ExportReport:
    has_arrivals = "arrival_ns" in (*trace.meta.given, *trace.meta.derived)
    recorded = trace.meta.hash_block_tokens == BLOCK_TOKENS
    requests = sorted(_requests(trace, recorded), key=lambda request: (request.timestamp_ms, request.order))
    partial = out.with_name(out.name + ".partial")
    try:
        with partial.open("w") as file:
            for request in requests:
                line = {
                    "timestamp": request.timestamp_ms,
                    "input_length": request.input_length,
                    "output_length": request.output_length,
                    "hash_ids": request.hash_ids,
                }
                file.write(json.dumps(line) + "\n")
        partial.replace(out)
    except OSError as error:
        raise TraceError(f"{out}: cannot be written ({error}); free space or choose another place") from error
    finally:
        partial.unlink(missing_ok=True)
    notes = (
        "dropped: trajectory, gap_ns, keep_tokens, sub-agents (the format has no sessions)",
        "given: timestamp, from arrival_ns"
        if has_arrivals
        else "derived: timestamp, the sum of gaps since the trajectory's start, as if nothing took time to serve",
        "given: hash_ids, as recorded"
        if recorded
        else f"derived: hash_ids, of blocks of {BLOCK_TOKENS} tokens of the contents that a replay would have",
    )
    return ExportReport(trace.path, out, len(requests), notes)


def _requests(trace: TraceFile, recorded: bool) -> Iterator[_Request]:
    numbers: dict[object, int] = {}  # what makes a block the same block -> its id in the file
    order = 0
    for family in families(trace):
        for trajectory in family:
            if not recorded:
                hash_ids = _by_content(trajectory, numbers)
            elif trace.meta.hash_scope == "global":
                hash_ids = (list(turn.block_hashes or ()) for turn in trajectory.turns)
            else:
                hash_ids = _renamed(trajectory, family[0].id, numbers)
            clock_ns = 0
            for turn, prompt, ids in zip(trajectory.turns, trajectory.prompt_tokens(), hash_ids, strict=True):
                clock_ns = clock_ns + turn.gap_ns if turn.arrival_ns is None else turn.arrival_ns
                yield _Request(clock_ns // _NS_PER_MS, order, prompt, turn.generate_tokens, ids)
                order += 1


def _renamed(trajectory: Trajectory, root: str, numbers: dict[object, int]) -> Iterator[list[int]]:
    """Local ids of a family, made global."""
    for turn in trajectory.turns:
        yield [numbers.setdefault((root, block), len(numbers)) for block in turn.block_hashes or ()]


def _by_content(trajectory: Trajectory, numbers: dict[object, int]) -> Iterator[list[int]]:
    """An id per block of the prompt and everything before it; the last one over what the block has."""
    stream = TokenStream(trajectory, seed=0, vocab=1 << 31)
    for turn, prompt in enumerate(trajectory.prompt_tokens()):
        full = prompt // BLOCK_TOKENS
        keys = stream.keys(turn, BLOCK_TOKENS)[:full]
        tail = stream.prompt(turn)[full * BLOCK_TOKENS :]
        if tail.size:
            keys.append(block_key(keys[-1] if keys else ROOT_KEY, tail))
        yield [numbers.setdefault(key, len(numbers)) for key in keys]
