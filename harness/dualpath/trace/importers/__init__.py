"""Bring traces of other projects into the canonical schema, saying what was given, derived and dropped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dualpath.core.errors import TraceError
from dualpath.trace.importers import kv_cache_tester, mooncake, table, tracelab, trie
from dualpath.trace.importers.source import Source, required_path, sha256_of
from dualpath.trace.output import check_output
from dualpath.trace.schema import TraceMeta
from dualpath.trace.writer import TraceWriter

FORMATS: dict[str, Callable[[Path], Source]] = {
    "kv-cache-tester": kv_cache_tester.read,
    "mooncake": mooncake.read,
    "mooncake-requests": mooncake.read_requests,
    "trie": trie.read,
    "tracelab": tracelab.read,
    "table": table.read,
}


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of a source; `lines` is for people."""

    format: str
    path: Path
    out: Path
    num_trajectories: int
    num_turns: int
    given: tuple[str, ...]
    derived: dict[str, str]  # column -> how
    absent: tuple[str, ...]
    assumed: tuple[str, ...]
    dropped: dict[str, int]  # what -> how many
    changed: dict[str, int]  # values put within limits -> how many

    def lines(self) -> list[str]:
        return [
            f"{self.out}: {self.num_trajectories:,} trajectories, {self.num_turns:,} turns from {self.path}",
            f"given: {', '.join(self.given)}",
            *(f"derived: {column}: {how}" for column, how in self.derived.items()),
            f"absent: {', '.join(self.absent)}",
            *(f"assumed: {what}" for what in self.assumed),
            *(f"dropped: {count:,} {what}" for what, count in self.dropped.items()),
            *(f"changed: {count:,} {what}" for what, count in self.changed.items()),
        ]


def import_trace(format: str, path: Path | str, out: Path | str) -> ImportReport:
    """Read `path`, write the trace `out`. Raises TraceError; then there is no `out`."""
    path, out = Path(path), Path(out)
    if format not in FORMATS:
        raise TraceError(f"format {format!r} is unknown; the formats are {', '.join(FORMATS)}")
    required_path(path)
    check_output(out, path)
    source = FORMATS[format](path)
    meta = TraceMeta(
        source=source.description,
        licence=source.licence,
        source_sha256=sha256_of(path),
        given=source.given,
        derived=source.derived,
        absent=source.absent,
        hash_block_tokens=source.hash_block_tokens,
        hash_scope=source.hash_scope,
        generator=f"dualpath trace import {format}",
    )
    with TraceWriter(out, meta) as writer:
        for trajectory in source.trajectories:
            writer.write(trajectory)
        # Known only now: what was dropped on the way.
        lost = {what: str(count) for what, count in (source.dropped | source.changed).items()}
        writer.meta = msgspec.structs.replace(meta, dropped=lost)
    return ImportReport(
        format=format,
        path=path,
        out=out,
        num_trajectories=writer.num_trajectories,
        num_turns=writer.num_turns,
        given=source.given,
        derived=source.derived,
        absent=source.absent,
        assumed=source.assumed,
        dropped=dict(source.dropped),
        changed=dict(source.changed),
    )
