"""TraceLab: one model call per JSON line, with the session it belongs to and timed events. Held in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dualpath.core.errors import TraceError
from dualpath.core.trajectory import Trajectory, Turn
from dualpath.trace.importers.records import Record, integer, json_lines, objects, text
from dualpath.trace.importers.source import NO_HASHES, NO_PARENTS, Source, placed


def read(path: Path) -> Source:
    source = Source(
        description="TraceLab rounds",
        trajectories=iter(()),
        given=("trajectory", "generate_tokens"),
        derived={
            "turn": "order of the session's rounds by time",
            "append_tokens": "input_tokens_total less kept context",
            "keep_tokens": "the previous prompt where the context shrank",
            "gap_ns": "first event of the round less last event of the round before",
            "arrival_ns": "time of the round's first event, from the earliest event of the file",
        },
        absent=(*NO_PARENTS, *NO_HASHES),
        assumed=(
            "a context that grew continues the round before; prefix_tokens is what the provider's cache held, "
            "not what the prompts share",
        ),
        licence="CC BY 4.0 (TraceLab)",
    )
    source.trajectories = _sessions(path, source)
    return source


@dataclass(frozen=True, slots=True)
class _Round:
    start_ns: int
    end_ns: int
    index: int
    prompt: int
    output: int


def _sessions(path: Path, source: Source) -> Iterator[Trajectory]:
    sessions: dict[str, dict[tuple[int, int], _Round]] = {}
    for where, record in json_lines(path):
        found = _round(where, record, source)
        if found is None:
            continue
        rounds = sessions.setdefault(text(where, record, "session_id"), {})
        key = (found.start_ns, found.index)
        if key in rounds:
            source.dropped["rounds recorded twice"] += 1
        rounds[key] = found
    origin_ns = min((key[0] for rounds in sessions.values() for key in rounds), default=0)
    for name, rounds in sessions.items():
        yield _trajectory(name, [rounds[key] for key in sorted(rounds)], origin_ns)


def _round(where: str, record: Record, source: Source) -> _Round | None:
    prompt = integer(where, record, "input_tokens_total")
    events = objects(where, record, "timing_events")
    if prompt < 1 or not events:
        source.dropped["rounds without a prompt or without events"] += 1
        return None
    output = integer(where, record, "output_tokens")
    if output < 1:
        source.changed["outputs of 0 tokens, now 1"] += 1
    times = [_time_ns(where, text(where, event, "timestamp")) for event in events]
    index = integer(where, record, "round_index")
    return _Round(min(times), max(times), index, prompt, max(1, output))


def _time_ns(where: str, stamp: str) -> int:
    try:
        return round(datetime.fromisoformat(stamp).timestamp() * 1000) * 1_000_000
    except ValueError as error:
        raise TraceError(f"{where}: timestamp {stamp!r} is no ISO time; correct the line") from error


def _trajectory(name: str, rounds: list[_Round], origin_ns: int) -> Trajectory:
    turns: list[Turn] = []
    before: _Round | None = None
    for now in rounds:
        keep, append, gap_ns = None, now.prompt, 0
        if before is not None:
            keep, append = placed(now.prompt, before.prompt, before.output, None)
            gap_ns = max(0, now.start_ns - before.end_ns)
        turns.append(Turn(append, now.output, gap_ns, keep, now.start_ns - origin_ns))
        before = now
    return Trajectory(name, tuple(turns))
