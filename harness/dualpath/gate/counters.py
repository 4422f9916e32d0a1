"""Tier 1: what two runs must have in common exactly, and the first place where they have not.

A counter is a table of whole numbers and names: its first columns say what is counted, the rest how much. Which of them
a run repeats exactly depends on what ran: a simulation repeats all; a real run repeats bytes, hits and routes where its
arm does not choose by queues, or one agent runs alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import polars as pl

from dualpath.core.errors import RunError
from dualpath.gate.sides import Job, Ran, Side, run_together
from dualpath.gate.spec import Counter, Counters
from dualpath.gate.verdict import Finding
from dualpath.results.run import Run

_LONGEST = 160  # of a value in an explanation
_Table = tuple[list[str], pl.DataFrame]  # columns that say what is counted; the counter, in order


def _bytes(run: Run) -> _Table:
    key = ["resource", "node", "engine", "direction", "route", "lane"]
    counted = run.links.filter(pl.col("resource") != "port")  # a NIC's own counter counts others' bytes, too
    return key, counted.group_by(key).agg(pl.col("bytes").sum()).sort(key, nulls_last=True).collect()


def _turns(*columns: str) -> Callable[[Run], _Table]:
    key = ["trajectory", "turn"]
    return lambda run: (key, run.turns.select(*key, *columns).sort(key).collect())


def _times(run: Run) -> _Table:
    return _turns(*(name for name in run.turns.collect_schema() if name.endswith("_ns")))(run)


def _decisions(run: Run) -> _Table:
    found = run.decisions.select("index", "t_ns", "event", "commands").sort("index").collect()
    if not found.height:
        raise RunError(f"{run.directory}: no decisions were kept; simulate with --decisions")
    return ["index"], found


def _events(run: Run) -> _Table:
    simulated = run.raw.get("simulated")
    if simulated is None:
        raise RunError(f"{run.directory}: events are counted by the simulator; this run is real")
    return [], pl.DataFrame({"events": [simulated["events"]]})


COUNTERS: dict[Counter, Callable[[Run], _Table]] = {
    "bytes": _bytes,
    "hits": _turns("hit_tokens", "miss_tokens"),
    "routes": _turns("route", "prefill_engine", "decode_engine", "decode_side_tokens"),
    "decisions": _decisions,
    "times": _times,
    "events": _events,
}


def measure(probe: Counters, base: Side, candidate: Side, out: Path) -> list[Finding]:
    """Run the probe on both sides, at once, as counters do not mind: a finding for each counter of each run it left."""
    jobs = [Job(side, side.filled(probe.command, out / side.label), out / side.label) for side in (base, candidate)]
    try:
        ours, theirs = (_runs(job, ran) for job, ran in zip(jobs, run_together(jobs), strict=True))
        if unlike := ours.keys() ^ theirs.keys():
            raise RunError(f"only one side left a run {min(unlike)!r}")
    except RunError as error:
        return [Finding(1, probe.name, "void", "-", "equal", str(error))]
    return [
        _finding(f"{probe.name}{name and f', {name}'}: {counter}", counter, run, theirs[name])
        for name, run in ours.items()
        for counter in probe.equal
    ]


def _runs(job: Job, ran: Ran) -> dict[str, Run]:
    """What a command left: one run in its folder, named "", or several in folders of their own. Raises RunError."""
    if ran.problem:
        raise RunError(ran.problem)
    several = sorted(found.parent for found in job.out.glob("*/run.json"))
    runs = {folder.name: Run.load(folder) for folder in several} or {"": Run.load(job.out)}
    for run in runs.values():
        if run.void:
            raise RunError(f"{job.side.label} is void: {'; '.join(run.reasons)}")
    return runs


def _finding(what: str, counter: Counter, base: Run, candidate: Run) -> Finding:
    try:
        (key, ours), (_, theirs) = COUNTERS[counter](base), COUNTERS[counter](candidate)
    except RunError as error:
        return Finding(1, what, "void", "-", "equal", str(error))
    if unlike := set(ours.columns) ^ set(theirs.columns):
        return Finding(1, what, "void", "-", "equal", f"only one side has a column {min(unlike)!r}")
    if not ours.height and not theirs.height:
        return Finding(1, what, "void", "-", "equal", "neither side has a row to compare")
    found = difference(key, ours, theirs.select(ours.columns))
    if found is None:
        return Finding(1, what, "pass", f"{theirs.height:,} rows equal", "equal", "")
    shown = f"{found.rows:,} of {max(ours.height, theirs.height):,} rows differ"
    return Finding(1, what, "fail", shown, "equal", f"{shown}; {found.first}")


class Difference(NamedTuple):
    """How many rows differ, and the first that does."""

    rows: int
    first: str


def difference(key: list[str], base: pl.DataFrame, candidate: pl.DataFrame) -> Difference | None:
    """None where all are equal. Rows of `base` are in order."""
    values = [name for name in base.columns if name not in key]
    if base.equals(candidate):
        return None
    if not key:
        return Difference(1, "; ".join(_changed(name, base[name][0], candidate[name][0]) for name in values))
    place = pl.int_range(pl.len()).alias("_place")
    both = base.with_columns(place).join(
        candidate.with_columns(place), on=key, how="full", coalesce=True, nulls_equal=True, suffix="_candidate"
    )
    unlike = pl.any_horizontal(pl.col(name).ne_missing(pl.col(f"{name}_candidate")) for name in values)
    is_odd = pl.col("_place").is_null() | pl.col("_place_candidate").is_null()
    found = both.filter(is_odd | unlike).sort(pl.coalesce("_place", "_place_candidate"))
    if not found.height:
        return Difference(base.height, "they come in another order")
    first = found.row(0, named=True)
    where = ", ".join(f"{name} {first[name]}" for name in key if first[name] is not None)
    if first["_place"] is None or first["_place_candidate"] is None:
        side = "base" if first["_place_candidate"] is None else "candidate"
        suffix = "" if side == "base" else "_candidate"
        what = f"only in {side}: " + ", ".join(f"{name} {_short(first[name + suffix])}" for name in values)
    else:
        what = "; ".join(
            _changed(name, first[name], first[f"{name}_candidate"])
            for name in values
            if first[name] != first[f"{name}_candidate"]
        )
    return Difference(found.height, f"first: {where}: {what}")


def _changed(name: str, base: object, candidate: object) -> str:
    return f"{name} {_short(base)} in base, {_short(candidate)} in candidate"


def _short(value: object) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
