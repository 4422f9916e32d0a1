"""What `dualpath trace ...` does, as functions from arguments to lines of text. Raises TraceError for bad input."""

from __future__ import annotations

from pathlib import Path

from dualpath.trace import exporters, importers
from dualpath.trace.reader import TraceFile
from dualpath.trace.stats import HitRate, TraceStats, trace_stats
from dualpath.trace.synth import SETS, synthesize, synthetic_meta
from dualpath.trace.validate import validate
from dualpath.trace.writer import TraceWriter

FORMATS = tuple(importers.FORMATS)


def import_trace(format: str, path: Path, out: Path) -> list[str]:
    """What was given, derived, assumed, dropped and changed."""
    return importers.import_trace(format, path, out).lines()


def export_trace(format: str, path: Path, out: Path) -> list[str]:
    """What was given, derived and dropped."""
    report = exporters.export_trace(format, path, out)
    return [f"{report.out}: {report.num_requests:,} requests from {report.path}", *report.notes]


def synthesize_to(set_name: str, sessions: int, seed: int, out: Path) -> str:
    with TraceWriter(out, synthetic_meta(set_name, sessions, seed)) as writer:
        for trajectory in synthesize(set_name, sessions, seed):
            writer.write(trajectory)
    return f"{out}: {writer.num_trajectories:,} trajectories, {writer.num_turns:,} turns"


def validate_file(path: Path) -> list[str]:
    """Problems, the first of them in full; empty for a valid file."""
    report = validate(path)
    hidden = report.num_problems - len(report.problems)
    return [*report.problems, *([f"{path}: and {hidden:,} problems more"] if hidden else [])]


def show_stats(path: Path) -> tuple[str, dict[str, object]]:
    """(a table for people, a value for JSON)"""
    with TraceFile.open(path) as trace:
        stats = trace_stats(trace)
        return "\n".join(_stats_lines(stats, trace)), stats.to_dict()


def _stats_lines(stats: TraceStats, trace: TraceFile) -> list[str]:
    columns = ("", "mean", "p10", "p50", "p90", "p99", "max")
    lines = [
        f"{stats.path}: {stats.num_trajectories:,} trajectories ({stats.num_sub_agents:,} sub-agents), "
        f"{stats.num_turns:,} turns",
        f"source: {trace.meta.source}; licence: {trace.meta.licence}",
        "",
        *(f"{row[0]:16}" + "".join(f"{cell:>12}" for cell in row[1:]) for row in (columns, *stats.rows())),
        "",
        "Table 2 columns, means of each trajectory's mean (traces/SCHEMA.md):",
    ]
    paper = _paper_row(trace)
    for name, value in stats.table2._asdict().items():
        beside = "" if paper is None else f"   paper {paper[name]:>10,.0f}  {value / paper[name] - 1:+.2%}"
        lines.append(f"{name:16}{value:>12,.1f}{beside}")
    lines += [
        "",
        "hit rates, infinite cache:",
        _hit_line("planned", "64-token blocks of kept context", stats.hits_planned),
    ]
    block = stats.hash_block_tokens
    if stats.hits_within is not None and stats.hits_across is not None:
        lines.append(_hit_line("within", f"recorded {block}-token blocks, same trajectory", stats.hits_within))
        lines.append(_hit_line("across", f"recorded {block}-token blocks, all in scope", stats.hits_across))
    return lines


def _paper_row(trace: TraceFile) -> dict[str, float] | None:
    """The paper's row, where the trace was synthesized to match it."""
    name = trace.meta.arguments.get("set")
    return SETS[name].paper._asdict() if name in SETS else None


def _hit_line(name: str, what: str, hits: HitRate) -> str:
    return f"{name:16}{hits.rate:>11.2%}   {hits.hit_tokens:,} of {hits.prompt_tokens:,} prompt tokens; {what}"
