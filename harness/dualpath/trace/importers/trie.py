"""TRIE: one agent run per JSON line, as lists of response lengths, tool output lengths and tool latencies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dualpath.core.errors import TraceError
from dualpath.core.trajectory import Trajectory, Turn
from dualpath.trace.importers.records import Record, integer, integers, json_lines
from dualpath.trace.importers.source import NO_HASHES, NO_PARENTS, Source, seconds_to_ns


def read(path: Path) -> Source:
    source = Source(
        description="TRIE agent runs",
        trajectories=iter(()),
        given=("append_tokens", "generate_tokens", "gap_ns"),
        derived={"trajectory": "the line's number", "turn": "position in the lists"},
        absent=("arrival_ns", "keep_tokens", *NO_PARENTS, *NO_HASHES),
        assumed=("the context only grows",),
        licence="Apache-2.0 (trie)",
    )
    source.trajectories = _runs(path, source)
    return source


def _runs(path: Path, source: Source) -> Iterator[Trajectory]:
    for index, (where, record) in enumerate(json_lines(path)):
        calls = integer(where, record, "num_turns")
        answers = integers(where, record, "assistant_response_length")
        tools = integers(where, record, "tool_call_output_length")
        delays = _seconds(where, record)
        if not len(answers) == len(tools) == len(delays) == calls:
            raise TraceError(
                f"{where}: num_turns is {calls} but its lists have {len(answers)}, {len(tools)} and {len(delays)} "
                "items; all must be num_turns long. Correct the line."
            )
        appends = (integer(where, record, "input_prompt_length", least=1), *tools)
        outputs = (*answers, integer(where, record, "final_assistant_response_length"))
        small = sum(value < 1 for value in (*appends, *outputs))
        if small:
            source.changed["lengths of 0 tokens, now 1"] += small
        gaps = (0.0, *delays)
        turns = [
            Turn(max(1, append), max(1, output), seconds_to_ns(gap))
            for append, output, gap in zip(appends, outputs, gaps, strict=True)
        ]
        yield Trajectory(f"run-{index:06d}", tuple(turns))


def _seconds(where: str, record: Record) -> list[float]:
    value = record.get("tool_call_latency")
    if not isinstance(value, list) or not all(type(item) in (int, float) for item in value):
        raise TraceError(f"{where}: tool_call_latency must be a list of numbers. Check the format.")
    return [float(item) for item in value]
