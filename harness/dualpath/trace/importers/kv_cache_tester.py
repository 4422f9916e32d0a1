"""kv-cache-tester: coding-agent sessions with hashes of 64-token blocks, one JSON file per session.

Release v6 has global hash ids and records every call twice ("twins", one streamed and one not); v8 has local ids
and keeps one of the two, but its think_time still contains the other call.
"""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import cast

import pyarrow as pa

from dualpath.core.errors import TraceError
from dualpath.core.trajectory import Trajectory, Turn
from dualpath.trace.hits import common_prefix
from dualpath.trace.importers.records import (
    Record,
    integer,
    integers,
    json_record,
    number,
    objects,
    text,
)
from dualpath.trace.importers.source import Source, placed, seconds_to_ns
from dualpath.trace.schema import HashScope

_ROUNDING_S = 0.5  # times are whole seconds


def read(path: Path) -> Source:
    """`path`: one session's .json, a folder of them, or a .tar.zst of such a folder."""
    sessions = _sessions(path)
    first = next(sessions, None)
    if first is None:
        raise TraceError(f"{path}: holds no .json session; give a session, a folder of them, or the .tar.zst")
    where, session = first
    block, scope = _hash_kind(where, session)
    dropped: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    reading = _Reading(block, scope, dropped, changed)
    return Source(
        description=f"kv-cache-tester, hash scope {scope}",
        trajectories=reading.trajectories(chain([first], sessions)),
        given=("generate_tokens", "hash_shared", "hash_new"),
        derived={
            "append_tokens": "prompt length less kept context",
            "keep_tokens": "common block hashes where the prompt does not continue the previous turn",
            "gap_ns": "think_time less the waiting for sub-agents"
            + ("" if scope == "global" else " and less the dropped twin call's api_time"),
            "parent_trajectory": "the session that lists the sub-agent",
            "parent_turn": "last turn sent before the sub-agent's start (its end less its duration)",
        },
        absent=("arrival_ns",),
        assumed=(
            "the less than 64 tokens after a prompt's last full block stay as they were",
            "a sub-agent is waited for by its parent, also where the source says it ran asynchronously",
        ),
        licence="Apache-2.0 (kv-cache-tester)",
        hash_block_tokens=block,
        hash_scope=scope,
        dropped=dropped,
        changed=changed,
    )


def _sessions(path: Path) -> Iterator[tuple[str, Record]]:
    if path.is_dir():
        for member in sorted(path.glob("*.json")):
            yield str(member), json_record(str(member), member.read_bytes())
    elif path.name.endswith(".tar.zst"):
        try:
            with (
                pa.input_stream(str(path), compression="zstd") as stream,
                tarfile.open(fileobj=stream, mode="r|") as archive,
            ):
                for entry in archive:
                    file = archive.extractfile(entry) if entry.name.endswith(".json") else None
                    if file is not None:
                        yield f"{path}: {entry.name}", json_record(f"{path}: {entry.name}", file.read())
        except (tarfile.TarError, OSError) as error:
            raise TraceError(f"{path}: cannot be read ({error}); copy it again") from error
    else:
        yield str(path), json_record(str(path), path.read_bytes())


def _hash_kind(where: str, session: Record) -> tuple[int, HashScope]:
    scope = session.get("hash_id_scope", "local")
    if scope not in ("local", "global"):
        raise TraceError(f"{where}: hash_id_scope is {scope!r}; it must be 'local' or 'global'")
    return integer(where, session, "block_size", least=1), cast(HashScope, scope)


@dataclass(frozen=True, slots=True)
class _Call:
    """One recorded request, twins merged."""

    t_s: float
    prompt: int
    output: int
    hashes: tuple[int, ...]
    gap_s: float | None


@dataclass(frozen=True, slots=True)
class _Child:
    trajectory: Trajectory
    start_s: float
    duration_s: float
    waited_for: bool


@dataclass(frozen=True, slots=True)
class _Reading:
    block: int
    scope: HashScope
    dropped: Counter[str]
    changed: Counter[str]

    def trajectories(self, sessions: Iterator[tuple[str, Record]]) -> Iterator[Trajectory]:
        for where, session in sessions:
            if _hash_kind(where, session) != (self.block, self.scope):
                raise TraceError(
                    f"{where}: hash kind {_hash_kind(where, session)} differs from the first session's "
                    f"{(self.block, self.scope)}; import the releases separately"
                )
            yield from self._family(where, session)

    def _family(self, where: str, session: Record) -> Iterator[Trajectory]:
        name = text(where, session, "id")
        items = objects(where, session, "requests")
        calls = self._calls(where, [item for item in items if item.get("type") != "subagent"])
        if not calls:
            self.dropped["sessions without a request"] += 1
            return
        listed = [item for item in items if item.get("type") == "subagent"]
        children = [child for item in listed for child in self._child(where, name, item)]
        parents = [_parent_turn(calls, child.start_s) for child in children]
        waits = [0.0] * (len(calls) + 1)
        for child, parent_turn in zip(children, parents, strict=True):
            if child.waited_for:
                waits[parent_turn + 1] = max(waits[parent_turn + 1], child.duration_s)
        yield self._trajectory(name, calls, waits)
        seen: Counter[str] = Counter()
        for child, parent_turn in zip(children, parents, strict=True):
            seen[child.trajectory.id] += 1
            again = "" if seen[child.trajectory.id] == 1 else f"~{seen[child.trajectory.id]}"
            yield Trajectory(
                id=child.trajectory.id + again,
                turns=child.trajectory.turns,
                parent=name,
                parent_turn=parent_turn,
                hash_block_tokens=self.block,
                hash_scope=self.scope,
            )

    def _child(self, where: str, parent: str, item: Record) -> Iterator[_Child]:
        agent = text(where, item, "agent_id")
        calls = self._calls(f"{where}: sub-agent {agent}", objects(where, item, "requests"))
        if not calls:
            self.dropped["sub-agents without a request"] += 1
            return
        duration_s = (number(where, item, "duration_ms") or 0.0) / 1e3
        end_s = number(where, item, "t") or 0.0
        trajectory = self._trajectory(f"{parent}/{agent}", calls, [0.0] * (len(calls) + 1))
        waited_for = item.get("status") != "async_launched"
        if not waited_for:
            self.changed["sub-agents launched asynchronously, now waited for"] += 1
        yield _Child(trajectory, end_s - duration_s, duration_s, waited_for)

    def _calls(self, where: str, items: list[Record]) -> list[_Call]:
        """Requests in order; of repeated ones the first, with the next one's output where its own is empty."""
        calls: list[_Call] = []
        previous: Record | None = None
        twin_done = False
        for index, item in enumerate(items):
            here = f"{where}: request {index}"
            call = self._call(here, item, previous)
            if previous is not None and _is_repeated(previous, item, twin_done):
                twin_done = True
                self.dropped["twin requests"] += 1
                if calls and calls[-1].output == 0:
                    first = calls[-1]
                    calls[-1] = _Call(first.t_s, first.prompt, call.output, first.hashes, first.gap_s)
            elif call.prompt < 1:
                self.dropped["requests with an empty prompt"] += 1
            else:
                twin_done = False
                calls.append(call)
            previous = item
        return calls

    def _call(self, where: str, item: Record, previous: Record | None) -> _Call:
        if item.get("type") == "subagent":
            raise TraceError(f"{where}: a sub-agent inside a sub-agent is not supported; remove it")
        hashes = integers(where, item, "hash_ids")
        prompt = integer(where, item, "in")
        if len(hashes) > -(-prompt // self.block):
            raise TraceError(
                f"{where}: {len(hashes)} hash_ids for a prompt of {prompt} tokens; at most "
                f"{-(-prompt // self.block)} blocks of {self.block} fit. Correct the source."
            )
        return _Call(
            t_s=number(where, item, "t") or 0.0,
            prompt=prompt,
            output=integer(where, item, "out"),
            hashes=hashes,
            gap_s=self._gap_s(where, item, previous),
        )

    def _gap_s(self, where: str, item: Record, previous: Record | None) -> float | None:
        think = number(where, item, "think_time")
        if self.scope == "global" or think is None:
            return think
        # v8: the dropped twin of a non-streamed call ran beside it, that of a streamed call beside the last one.
        beside = item if item.get("type") == "n" else previous
        api = None if beside is None else number(where, beside, "api_time")
        return think if api is None else max(0.0, think - api)

    def _trajectory(self, name: str, calls: list[_Call], waits: list[float]) -> Trajectory:
        turns: list[Turn] = []
        prompt = output = 0
        hashes: tuple[int, ...] = ()
        for index, call in enumerate(calls):
            keep, append = None, call.prompt
            if index:
                shared = common_prefix(hashes, call.hashes)
                edited = shared < min(len(hashes), len(call.hashes))
                keep, append = placed(call.prompt, prompt, output, shared * self.block if edited else None)
            if call.output < 1:
                self.changed["outputs of 0 tokens, now 1"] += 1
            if call.gap_s is None and index:
                self.changed["gaps not recorded, now 0"] += 1
            gap_s = max(0.0, (call.gap_s or 0.0) - waits[index]) if index else 0.0
            prompt, output, hashes = call.prompt, max(1, call.output), call.hashes
            turns.append(Turn(append, output, seconds_to_ns(gap_s), keep, None, hashes))
        return Trajectory(name, tuple(turns), hash_block_tokens=self.block, hash_scope=self.scope)


def _is_repeated(first: Record, second: Record, twin_done: bool) -> bool:
    """One call recorded again: same prompt, once streamed and once not, or tried again as one came back empty."""
    same = first.get("in") == second.get("in") and first.get("hash_ids") == second.get("hash_ids")
    empty = first.get("out") == 0 or second.get("out") == 0
    return same and (empty or (not twin_done and {first.get("type"), second.get("type")} == {"s", "n"}))


def _parent_turn(calls: list[_Call], start_s: float) -> int:
    sent = [index for index, call in enumerate(calls) if call.t_s <= start_s + _ROUNDING_S]
    return sent[-1] if sent else 0
