"""The report on the simulator's speed: what bench/sim_speed.py measured, and the checks that it is fast enough.

    python reports/sim_speed.py [ROWS [OUT]]        default: bench/out/sim_speed reports/out/sim_speed

Reads ROWS/<group>.jsonl, of each the latest session; writes the report and checks.json to OUT. What was not measured
fails its checks with the reason; it does not stop the report. Exits with 1 where a check failed.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dualpath.report.near import near
from dualpath.report.sections import Section, Tile
from dualpath.report.table import NONE, Shown, Table, number, shown, table
from dualpath.report.tables import checks_table
from dualpath.report.write import write_page
from dualpath.results.checks import RUN_MISSING, Check, at_least, at_most

ROOT = Path(__file__).resolve().parents[1]
TITLE = "How fast the simulator is"
GROUPS = ("compile", "turns", "scaling", "dynosim", "simpy", "scheduler", "big")
LEAST_TURNS_PER_S = 40_000
MOST_BIG_S, MOST_BIG_GIB = 150, 6
MOST_CORES, PAPER_CORES = 1, 10
SMALLEST = "paper-ds660b-2p4d"
GIB = 1 << 30
DYNOSIM = "dynosim "  # how the names of its arms begin
MODELS = (
    (
        "dualpath simulate",
        "the scheduler's own code at every event; every read, transfer and write on contending NICs and DRAM, by the "
        "hop table; passes of expert-parallel groups, the attention quota, loads layer by layer; memory of PEs and "
        "DEs; turns that wait until KV is stored; tables of every turn, pass and link",
        "decode steps one by one (summed in closed form between changes of a batch, to the same times); a KV cache in "
        "device memory (all hits come from storage); blocks as objects",
    ),
    (
        "DynoSim (ai-dynamo 1.6.1)",
        "every pass of every worker's vLLM-like scheduler, each decode step too; KV blocks, prefix cache with LRU "
        "eviction, preemption; a router",
        "storage, NICs, contention (as called here KV moves at once); expert-parallel groups; rows per request",
    ),
)
TEXTS = {  # group -> title and text of its section
    "turns": (
        "2P4D, a call and its loop",
        "A whole call reads the trace, loads compiled code, simulates and writes tables. The loop begins when all "
        "trajectories are in memory, and drops finished rows.",
    ),
    "big": ("48P96D", "The paper's largest cluster, whole calls."),
    "scaling": ("Clusters of four sizes", "The event loop alone, with the same agents per engine."),
    "dynosim": (
        "Beside DynoSim",
        "The same agent trace, all agents at once, each turn due when the one before it has ended. DynoSim, called by "
        "dynamo.replay.run_trace_replay, has a worker for each engine and a router that knows what is cached, or a "
        "worker for each node and round robin (fastest for it). KV blocks of 512 tokens that do not run out let it, "
        "too, compute little again. It writes nothing; `dualpath` is a whole call.",
    ),
    "simpy": (
        "Beside SimPy",
        "As many events, and as many pending, as the event loop has on 2P4D. SimPy's are timeouts that do nothing; "
        "`loop` is the whole simulation, `queue` our event queue alone.",
    ),
    "scheduler": (
        "The scheduler alone",
        "Events of a simulated run, told to a fresh scheduler (core/steps.py), which must end in the state that the "
        "simulation's own had. Half of them are told before the clock starts.",
    ),
    "compile": ("The first call", "Compiled after its sources changed, then kept on disk. Part of no other number."),
}
Row = dict[str, Any]
Pairs = list[tuple[Row, Row]]


@dataclass(frozen=True, slots=True)
class Rows:
    """The latest session of every group. `problems`: why a group has no rows."""

    folder: Path
    groups: dict[str, list[Row]]
    problems: dict[str, str]

    def of(self, group: str, arm: str | None = None) -> list[Row]:
        """What was measured, by repeat."""
        rows = [row for row in self.groups[group] if row["status"] == "ok" and arm in (None, row["arm"])]
        return sorted(rows, key=lambda row: int(row["repeat"]))

    def pairs(self, group: str, one: str, other: str) -> Pairs:
        """Two arms, round by round."""
        others = {row["repeat"]: row for row in self.of(group, other)}
        return [(row, others[row["repeat"]]) for row in self.of(group, one) if row["repeat"] in others]

    def why_not(self, group: str, arm: str | None = None) -> str:
        """Why there is nothing of it."""
        errors = [row["error"] for row in self.groups[group] if row["status"] != "ok" and arm in (None, row["arm"])]
        return self.problems.get(group) or "; ".join(dict.fromkeys(errors)) or RUN_MISSING

    def file(self, group: str) -> tuple[str, ...]:
        return (str(near(self.folder / f"{group}.jsonl")),) if self.groups[group] else ()


def main(rows_dir: Path | None = None, out_dir: Path | None = None) -> list[Check]:
    """Read the rows, compute the checks, write the report, print a summary. Returns the checks."""
    rows = load(rows_dir or ROOT / "bench" / "out" / "sim_speed")
    checks = [*turns_checks(rows), *big_checks(rows), scaling_check(rows), *others_checks(rows), scheduler_check(rows)]
    measured = [row for group in rows.groups.values() for row in group]
    if any(row["quick"] for row in measured):
        checks = [replace(check, passed=False, note=f"--quick measures nothing; {check.note}") for check in checks]
    page = write_page(
        out_dir or ROOT / "reports" / "out" / "sim_speed",
        title=TITLE,
        tiles=tiles(checks),
        caveats=list(caveats(measured)),
        sections=sections(rows, checks),
        counts=(len(measured), sum(row["status"] != "ok" for row in measured)),
        checks=checks,
    )
    for check in checks:
        value = "not measured" if check.value is None else f"{check.value:,.4g} {check.unit}".removesuffix(" 1")
        print(f"{'pass' if check.passed else 'FAIL'} {check.id}: {value} (bound {check.bound}) {check.note}")
    print(f"{sum(check.passed for check in checks)} of {len(checks)} checks passed; report: {near(page)}")
    return checks


def load(folder: Path) -> Rows:
    groups: dict[str, list[Row]] = {}
    problems: dict[str, str] = {}
    for group in GROUPS:
        path = folder / f"{group}.jsonl"
        try:
            found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
            groups[group] = [row for row in found if row["session"] == found[-1]["session"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            groups[group], problems[group] = [], f"{near(path)}: not usable ({type(error).__name__}: {error})"
    return Rows(folder, groups, problems)


def turns_checks(rows: Rows) -> Iterator[Check]:
    for arm, id, what in (
        ("whole", "sim.turns_per_s.2p4d", "a whole call of simulate, tables written"),
        ("loop", "sim.turns_per_s.2p4d.loop", "the event loop alone"),
    ):
        found = rows.of("turns", arm)
        speeds, note = _rates(found, "turns", "seconds"), rows.why_not("turns", arm)
        if found:
            cpu = statistics.median(_rates(found, "turns", "cpu_s"))
            note = f"{len(found)} repeats, {min(speeds):,.0f} to {max(speeds):,.0f}; per CPU second {cpu:,.0f}"
        what = f"turns per second, 2P4D, 64k set, {_agents(found)} agents: {what}; median"
        value = statistics.median(speeds) if found else None
        yield at_least(id, what, value, LEAST_TURNS_PER_S, unit="turns/s", note=note, rows=rows.file("turns"))


def big_checks(rows: Rows) -> Iterator[Check]:
    found = rows.of("big")
    what = f"48P96D, 48k set, {_agents(found)} agents, whole call in a fresh process"
    seconds = max((row["seconds"] for row in found), default=None)
    memory = max((row["peak_bytes"] / GIB for row in found), default=None)
    spent = turns = rows.why_not("big")
    if found:
        cpu_s, process_s = (max(row[clock] for row in found) for clock in ("cpu_s", "process_s"))
        spent = f"{len(found)} repeats; with the start of Python {process_s:.1f} s; CPU time {cpu_s:.1f} s"
        turns = f"{found[0]['turns']:,} turns, {found[0]['table_bytes'] / 1e6:,.0f} MB of tables"
    file = rows.file("big")
    yield at_most("sim.big.seconds", f"{what}: longest", seconds, MOST_BIG_S, unit="s", note=spent, rows=file)
    yield at_most("sim.big.memory", f"{what}: peak", memory, MOST_BIG_GIB, unit="GiB", note=turns, rows=file)


def scaling_check(rows: Rows) -> Check:
    """CPU time, because the loop is one thread: on a busy machine it waits, which is nobody's growth."""
    worst, notes = None, []
    sizes = {row["engines"]: row["arm"] for row in rows.of("scaling") if row["arm"] != SMALLEST}
    for engines, arm in sorted(sizes.items()):
        pairs = rows.pairs("scaling", SMALLEST, arm)
        if pairs:
            allowed = math.log(engines) / math.log(pairs[0][0]["engines"])
            ratio = _ratio(pairs, "turns", "cpu_s")
            worst = max(ratio / allowed, worst or 0.0)
            notes.append(f"{engines} engines: {ratio:.2f}x, allowed {allowed:.2f}x")
    what = "event loop, 2P4D to 48P96D: growth of CPU time per turn over that of log(engines), worst size"
    note = "; ".join(notes) or rows.why_not("scaling")
    return at_most("sim.scaling", what, worst, 1, note=note, rows=rows.file("scaling"))


def others_checks(rows: Rows) -> Iterator[Check]:
    """Ratios are medians over rounds; by wall time, as users wait."""
    value, note = None, rows.why_not("dynosim")
    arms = sorted({row["arm"] for row in rows.groups["dynosim"] if row["arm"].startswith(DYNOSIM)})
    found = {arm: pairs for arm in arms if (pairs := rows.pairs("dynosim", "dualpath", arm))}
    if found:
        value = min(_ratio(pairs, "turns", "seconds") for pairs in found.values())
        note = "; ".join(f"{arm}: {_both(pairs, 'turns')}" for arm, pairs in found.items())
    what = "requests per second on the same agent trace, whole call: ours over DynoSim's fastest configuration here"
    yield at_least("sim.vs.dynosim", what, value, 1, note=note, rows=rows.file("dynosim"))
    value, note = None, rows.why_not("simpy", "simpy")
    if pairs := rows.pairs("simpy", "loop", "simpy"):
        value = _ratio(pairs, "events", "seconds")
        note = f"{_both(pairs, 'events')}; {pairs[0][1]['pending']} pending; SimPy's events do nothing"
    what = "events per second: our event loop, simulating, over SimPy's timeouts"
    yield at_least("sim.vs.simpy", what, value, 1, note=note, rows=rows.file("simpy"))


def scheduler_check(rows: Rows) -> Check:
    found, value, note = rows.of("scheduler", "online"), None, rows.why_not("scheduler", "online")
    if found:
        row = found[0]
        rate, turns, events = row["rate_per_s"], row["turns_per_agent"], row["events"] / row["turns"]
        value = rate * turns * events / statistics.median(_rates(found, "events", "cpu_s"))
        recorded = statistics.median(row["cpu_s"] / row["simulated_s"] for row in found)
        note = (
            f"{rate:g} agents/s x {turns:.1f} turns x {events:.1f} events = {rate * turns * events:,.0f} events/s; "
            f"as recorded, still filling: {recorded:.5f} cores; the paper used under {PAPER_CORES}"
        )
    what, file = "cores that core/steps.py needs at the paper's largest online load, 44P88D", rows.file("scheduler")
    return at_most("sim.scheduler.cores", what, value, MOST_CORES, unit="cores", note=note, rows=file)


def tiles(checks: list[Check]) -> list[Tile]:
    values = {check.id: check.value for check in checks}

    def said(id: str, unit: str, scale: float = 1.0) -> str:
        return NONE if values[id] is None else f"{number(values[id], scale)}{unit}"

    return [
        Tile("turns per second, whole call, 2P4D", said("sim.turns_per_s.2p4d", "k", 1e-3), "bound 40k"),
        Tile("48P96D, 49,152 agents", said("sim.big.seconds", " s"), f"{said('sim.big.memory', ' GiB')} at most"),
        Tile("over DynoSim, same trace", said("sim.vs.dynosim", "×"), "its fastest configuration here"),
        Tile("checks passed", f"{sum(check.passed for check in checks)} / {len(checks)}", "each with its bound, below"),
    ]


def caveats(rows: list[Row]) -> Iterator[str]:
    if not rows:
        yield "Nothing was measured: run bench/sim_speed.py first."
        return
    load, cores = max(row["load_before"] for row in rows), rows[0]["host"]["cores"]
    if any(row["quick"] for row in rows):
        yield "Made with --quick: tiny counts, which show that the programs work. No check can pass."
    if load > 1:
        yield (
            f"The machine was not quiet: up to {load:.1f} processes wanted its {cores} cores. CPU time per turn "
            "suffers less from that than wall time, and ratios within a round less than either."
        )
    if len({row["code"] for row in rows}) > 1:
        yield "Groups were measured with different versions of the simulator: see Raw rows."
    if any(row["dirty"] for row in rows):
        yield "Measured with uncommitted changes; `code` under Raw rows is the digest of the sources."


def sections(rows: Rows, checks: list[Check]) -> list[Section]:
    failed = [check for check in checks if not check.passed]
    models = table("What each models", ("simulator|", "models|", "does not model|"), MODELS)
    found = [
        Section("failed", "Checks that failed", "", (), (checks_table("Checks that failed", failed),)),
        Section("checks", "Checks", "", (), (checks_table("Checks", checks),), is_folded=True),
        *(
            Section(group, title, text, (), (speeds(rows, group, title),), caveats=words(rows.groups[group]))
            for group, (title, text) in TEXTS.items()
        ),
        Section("models", models.title, "", (), (models,)),
        Section("raw", "Raw rows", "", (), (raw_table(rows),), is_folded=True),
    ]
    return [section for section in found if section.tables[0].rows]


def words(rows: list[Row]) -> tuple[str, ...]:
    """Beside the rates of a group."""
    load = max((row["load_before"] for row in rows), default=0.0)
    return (f"machine not quiet: load up to {load:.1f}",) if load > 1 else ()


def speeds(rows: Rows, group: str, title: str) -> Table:
    """One row per arm: medians over repeats, and the range of what was measured."""
    unit = "events" if group in ("simpy", "scheduler") else "turns"
    made: list[tuple[str | int, ...]] = []
    for arm in sorted({row["arm"] for row in rows.groups[group]}):
        found = [row for row in rows.of(group, arm) if {unit, "seconds"} <= row.keys()]
        if found:
            wall, cpu = _rates(found, unit, "seconds"), _rates(found, unit, "cpu_s")
            spent = [shown(statistics.median(row[clock] for row in found), ".2f") for clock in ("seconds", "cpu_s")]
            low, high = min(wall), max(wall)
            spread = Shown.of(f"{low:,.0f}–{high:,.0f}", low=low, high=high)
            speed = (shown(statistics.median(wall), ",.0f"), spread)
            peak = shown(max(row["peak_bytes"] for row in found) / GIB, ".2f")
            what = f"{found[0].get('cluster', '')} {found[0].get('trace', '')}".strip()
            made.append((arm, what, found[0][unit], *spent, *speed, shown(statistics.median(cpu), ",.0f"), peak))
        elif not rows.of(group, arm):
            made.append((arm, f"not measured: {rows.why_not(group, arm)}", *[NONE] * 7))
    columns = ("arm|", "of|", unit, "s", "CPU s", f"{unit} / s", "range", f"{unit} / CPU s", "peak GiB")
    return table(title, columns, made)


def raw_table(rows: Rows) -> Table:
    made = []
    for group, found in rows.groups.items():
        if found:
            first, loads = found[0], [row["load_before"] for row in found]
            failed = sum(row["status"] != "ok" for row in found)
            load, host = f"{min(loads):.1f}–{max(loads):.1f}", f"{first['host']['cpu']}, {first['host']['cores']} cores"
            facts = (first["session"][:19], str(first["commit"])[:12], first["code"], host)
            made.append((*rows.file(group), len(found), failed, load, *facts))
    columns = ("file|", "rows", "failed", "load", "session|", "commit|", "code|", "host|")
    return table("Raw rows", columns, made)


def _rates(rows: Iterable[Row], unit: str, clock: str) -> list[float]:
    return [row[unit] / row[clock] for row in rows]


def _ratio(pairs: Pairs, unit: str, clock: str) -> float:
    """How many times as fast the first of a pair is, median over rounds."""
    return float(statistics.median(a[unit] / a[clock] / (b[unit] / b[clock]) for a, b in pairs))


def _both(pairs: Pairs, unit: str) -> str:
    return f"{_ratio(pairs, unit, 'seconds'):.1f}x, by CPU time {_ratio(pairs, unit, 'cpu_s'):.1f}x"


def _agents(rows: list[Row]) -> str:
    return f"{rows[0]['agents']:,}" if rows else "no"


if __name__ == "__main__":
    found = main(*(Path(argument).resolve() for argument in sys.argv[1:3]))
    sys.exit(0 if all(check.passed for check in found) else 1)
