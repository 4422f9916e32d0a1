"""Mooncake: one request per JSON line (timestamp ms, input_length, output_length, hash_ids of 512-token blocks).

The format has no sessions. `read` infers chains; `read_requests` leaves each request alone. Rows are cumulative:
each carries its whole prompt. All requests are held in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dualpath.core.errors import TraceError
from dualpath.core.trajectory import Trajectory, Turn
from dualpath.trace.importers.records import integer, integers, json_lines
from dualpath.trace.importers.source import NO_PARENTS, Source

BLOCK_TOKENS = 512


@dataclass(frozen=True, slots=True)
class _Request:
    arrival_ns: int
    prompt: int
    output: int
    hashes: tuple[int, ...]  # one per block, the last block may be partial


def read(path: Path) -> Source:
    """Requests chained into sessions where the hashes say that one continues another."""
    source = read_requests(path)
    source.description = "Mooncake trace, sessions inferred"
    source.trajectories = _chained(path, source)
    source.derived["trajectory"] = "inferred: a request continues the latest one whose last full block it repeats"
    source.derived["append_tokens"] = "input_length less the previous request's input_length and output_length"
    source.assumed += (
        "sessions: request j continues request i when j's hash_ids begin with all full blocks of i, i was the "
        "first to have the last of those blocks, no other request continues i, and j is longer than i with its output",
    )
    return source


def read_requests(path: Path) -> Source:
    """Every request a trajectory of one turn."""
    source = Source(
        description="Mooncake trace, each request alone",
        trajectories=iter(()),
        given=("arrival_ns", "generate_tokens", "hash_shared", "hash_new"),
        derived={"trajectory": "the line's number", "append_tokens": "input_length"},
        absent=("gap_ns", "keep_tokens", *NO_PARENTS),
        assumed=("cumulative rows: input_length and hash_ids are those of the whole prompt",),
        licence="Apache-2.0 (Mooncake)",
        hash_block_tokens=BLOCK_TOKENS,
        hash_scope="global",
    )
    source.trajectories = _alone(path, source)
    return source


def _alone(path: Path, source: Source) -> Iterator[Trajectory]:
    for index, request in enumerate(_requests(path, source)):
        yield _trajectory(f"request-{index:06d}", [request])


def _chained(path: Path, source: Source) -> Iterator[Trajectory]:
    requests = list(_requests(path, source))
    for chain in infer_chains(requests):
        yield _trajectory(f"chain-{chain[0]:06d}", [requests[index] for index in chain])


def infer_chains(requests: list[_Request]) -> list[list[int]]:
    """Indices of requests, chain by chain, chains in the order of their first request."""
    children: dict[tuple[int, int], int] = {}  # trie of hashes: (node, hash) -> node
    tail_of: dict[int, int] = {}  # node of the last full block -> the request that introduced it and may go on
    chains: list[list[int]] = []
    chain_of: dict[int, list[int]] = {}
    for index, request in enumerate(requests):
        path: list[int] = []
        node = 0
        first_new = len(request.hashes)
        for depth, block in enumerate(request.hashes):
            below = children.get((node, block))
            if below is None:
                first_new = min(first_new, depth)
                below = children[node, block] = len(children) + 1
            node = below
            path.append(node)
        chain = None
        for node in reversed(path):
            before = tail_of.get(node)
            if before is not None and _ends(requests[before]) < request.prompt:
                chain = chain_of[before]
                del tail_of[node]
                break
        if chain is None:
            chain = []
            chains.append(chain)
        chain.append(index)
        chain_of[index] = chain
        full = request.prompt // BLOCK_TOKENS
        if first_new < full <= len(path):
            tail_of[path[full - 1]] = index
    return chains


def _ends(request: _Request) -> int:
    return request.prompt + request.output


def _trajectory(name: str, requests: list[_Request]) -> Trajectory:
    context = 0
    turns = []
    for request in requests:
        turns.append(
            Turn(
                append_tokens=request.prompt - context,
                generate_tokens=request.output,
                arrival_ns=request.arrival_ns,
                block_hashes=request.hashes,
            )
        )
        context = _ends(request)
    return Trajectory(name, tuple(turns), hash_block_tokens=BLOCK_TOKENS, hash_scope="global")


def _requests(path: Path, source: Source) -> Iterator[_Request]:
    latest_ns = 0
    for where, record in json_lines(path):
        if "session_id" in record or "delay" in record:
            raise TraceError(
                f"{where}: has session_id or delay, so its rows may be incremental (AIPerf's dialect), not "
                "cumulative as Mooncake's; reading them as cumulative would change every hit rate. Convert it first."
            )
        prompt = integer(where, record, "input_length")
        if prompt < 1:
            source.dropped["requests with an empty prompt"] += 1
            continue
        hashes = integers(where, record, "hash_ids")
        most = -(-prompt // BLOCK_TOKENS)
        if len(hashes) > most:
            raise TraceError(
                f"{where}: {len(hashes)} hash_ids for input_length {prompt}; at most {most} blocks of "
                f"{BLOCK_TOKENS} fit. Check that the rows are cumulative."
            )
        arrival_ns = integer(where, record, "timestamp") * 1_000_000
        if arrival_ns < latest_ns:
            raise TraceError(
                f"{where}: timestamp {arrival_ns // 1_000_000} is before the line above; sort the file by timestamp"
            )
        latest_ns = arrival_ns
        output = integer(where, record, "output_length")
        if output < 1:
            source.changed["outputs of 0 tokens, now 1"] += 1
        yield _Request(arrival_ns, prompt, max(1, output), hashes)
