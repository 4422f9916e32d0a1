"""The tables of a report, each from the same cells as the figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import polars as pl

from dualpath.core.errors import RunError
from dualpath.report.cells import Cell, Evidence
from dualpath.report.figures_time import balance_window_ns
from dualpath.report.table import NONE, Shown, Table, mega, number, per_cent, ratio, shown, table, times
from dualpath.results.bound import coordinator_ms_per_turn, noise
from dualpath.results.checks import Check
from dualpath.results.links import balance, steady_balance, steady_load_utilisation
from dualpath.results.metrics import METRICS, gap_closed
from dualpath.results.predicted import compare_bytes
from dualpath.results.run import Run
from dualpath.results.steady import RULE, ruling, steady_window
from dualpath.results.termination import RULE as PAPER_RULE


def checks_table(title: str, checks: Iterable[Check]) -> Table:
    rows = [
        (
            "✓ pass" if check.passed else "✗ fail",
            check.id,
            check.what,
            number(check.value),
            check.bound,
            check.unit if check.unit != "1" else "",
            check.note,
        )
        for check in checks
    ]
    return table(title, ("verdict|", "check|", "what it says|", "value", "bound", "unit|", "note|"), rows)


def speed(evidence: Evidence) -> Table:
    """JCT, speed-ups, share of the gap, bound and utilisation, one row per cell."""
    rows = []
    for cell in evidence.cells:
        layerwise, basic = evidence.speed_up(cell, "layerwise"), evidence.speed_up(cell, "basic")
        rows.append(
            (
                cell.group,
                cell.arm,
                len(cell.runs),
                number(cell.jct_s),
                ratio(layerwise.speed_up if layerwise else None),
                times(layerwise.trajectory_speed_up if layerwise else None),
                ratio(basic.speed_up if basic else None),
                _gap_cell(_gap(evidence, cell)),
                number(cell.bound.seconds if cell.bound else None),
                per_cent(cell.bound.closeness if cell.bound else None),
                per_cent(least_utilisation(cell)),
            )
        )
    return table(
        "Time and speed-up",
        (
            "cluster|",
            "arm|",
            "runs",
            "JCT, s",
            "vs layerwise (range)",
            "mean trajectory vs layerwise [95 %]",
            "vs basic (range)",
            "gap closed",
            "bound, s",
            "bound / JCT",
            "least SNIC use",
        ),
        rows,
        "Speed-ups are ratios of JCT, with their range over repeats where there are any; the 95 % interval is of the "
        "ratio of mean trajectory times, paired and resampled by trajectory. Gap closed: "
        f"{METRICS['gap_closed'].formula}; the oracle writes nothing to storage either, so less than 100 % is to be "
        "expected. Above 100 % the oracle was slower than the arm, which says that their difference is noise. "
        "Bound: hit bytes / (SNIC rate × SNICs the arm may read with), of the repeat with the middle JCT; bound / JCT "
        "says how close the run came. Least SNIC use: read utilisation in the steady window of the least used storage "
        "NIC that the arm may read with, mean over repeats; a speed-up without a saturated link explains nothing.",
    )


def least_utilisation(cell: Cell) -> float | None:
    """Of the SNICs the arm may read with, the least used one's steady utilisation; mean over repeats."""
    found = [least_used(run) for run in cell.runs]
    present = [value for value in found if value is not None]
    return sum(present) / len(present) if present and len(present) == len(found) else None


def least_used(run: Run) -> float | None:
    used = steady_load_utilisation(run)
    values = [used[run.node_name(node)] for node in run.read_nodes()] if used else []
    present = [value for value in values if value is not None]
    return min(present) if present and len(present) == len(values) else None


def throughput(evidence: Evidence) -> Table:
    """Trajectory times, rates and hit rates, one row per cell."""
    rows = []
    for cell in evidence.cells:
        numbers = cell.numbers
        rows.append(
            (
                cell.group,
                cell.arm,
                number(numbers["trajectory_jct"], 1e-9),
                shown(numbers["prompt_rate"], ",.0f"),
                shown(numbers["generated_rate"], ",.0f"),
                per_cent(numbers["hit_rate_planned"]),
                per_cent(numbers["hit_rate_measured"]),
            )
        )
    return table(
        "Throughput, hit rate",
        (
            "cluster|",
            "arm|",
            "trajectory JCT, s",
            "prompt tok/s",
            "generated tok/s",
            "hit rate planned",
            "hit rate measured",
        ),
        rows,
        "Means over repeats. Prompt tokens include hits. Planned: what the trace alone implies; measured: what was "
        "found persisted and loaded.",
    )


def windows(evidence: Evidence) -> Table:
    """The steady window of each cell, and which rule gave it."""
    rows = []
    for cell in evidence.cells:
        found = ruling(cell.middle)
        ends = (found.window.start_ns, found.window.end_ns) if found.window else ()
        from_to = [shown(end / 1e9, ",.2f") for end in ends] or [NONE, NONE]
        rows.append((cell.group, cell.arm, found.rule, *from_to, found.reason))
    return table(
        "Steady windows",
        ("cluster|", "arm|", "rule|", "from, s", "to, s", "why|"),
        rows,
        f"Of the repeat with the middle JCT. “{RULE}”, for offline runs: from the moment the last trajectory has "
        "finished its first turn until fewer than half of the agents, or than 4 per storage NIC the arm may read with, "
        f"are unfinished. “{PAPER_RULE}”, the paper's for online runs: the first 150 s whose mean TTFT is within 5 % "
        "of that of the 150 s half an hour earlier. Utilisation and balance use the window; JCT, throughput and "
        "latency are of the whole run.",
    )


def warm_ups(evidence: Evidence) -> Table:
    counts = Counter((run.manifest.backend, run.manifest.warm_up) for run in evidence.runs if not run.void)
    rows = [(backend, text or "not recorded", count) for (backend, text), count in counts.items()]
    return table(
        "Warm-up",
        ("backend|", "before the clock starts|", "runs"),
        rows,
        "Nothing is cut afterwards: the cold start, in which nothing is stored yet, counts in every number but those "
        "of a steady window.",
    )


def balances(evidence: Evidence) -> Table:
    rows = []
    for cell in evidence.cells:
        run, window_ns = cell.middle, balance_window_ns(cell.middle)
        frame = balance(run, window_ns=window_ns)
        window = steady_window(run)
        used = steady_load_utilisation(run)
        rows.append(
            (
                cell.group,
                cell.arm,
                f"{window.start_ns / 1e9:.1f}–{window.end_ns / 1e9:.1f}" if window else NONE,
                number(steady_balance(run, window_ns=window_ns)),
                number(frame["balance"].mean()) if not frame.is_empty() else NONE,  # type: ignore[arg-type] # a float
                ", ".join(f"{name} {per_cent(value)}" for name, value in used.items()) if used else NONE,
            )
        )
    return table(
        "Steady window and balance",
        ("cluster|", "arm|", "steady window, s", "max/avg in it", "max/avg, whole run", "SNIC read utilisation in it|"),
        rows,
        f"Of the repeat with the middle JCT. Steady window: rule “{RULE}”, see Steady windows. “–”: there is none.",
    )


def resource_bytes(evidence: Evidence) -> Table:
    """Counted bytes per role's resource, direction and route, beside the prediction where the run has one."""
    rows = []
    for cell in evidence.cells:
        run = cell.middle
        try:
            found = compare_bytes(run)
        except RunError:
            found = None
        counted = compare_bytes(run, ()) if found is None else found
        prefill_nodes = run.cluster.prefill.nodes
        role = pl.when(pl.col("node") < prefill_nodes).then(pl.lit("P")).otherwise(pl.lit("D"))
        keys = ["role", "resource", "direction", "route"]
        frame = counted.rows.with_columns(role=role).group_by(keys).agg(pl.col("counted", "predicted").sum())
        for entry in frame.sort("resource", "role", "direction", "route", descending=[True, True, False, False]).rows():
            place, resource, direction, route, has, wants = entry
            verdict = NONE if found is None else "= predicted" if has == wants else f"✗ predicted {mega(wants)}"
            rows.append((cell.group, cell.arm, f"{place} {resource}", direction, route, mega(has), verdict))
    return table(
        "Bytes per resource",
        ("cluster|", "arm|", "resource|", "direction|", "route|", "counted, MB", "hop table|"),
        rows,
        "KV lane of the repeat with the middle JCT, summed over the nodes of a role (P: prefill, D: decode). The hop "
        "table predicts the bytes from the scheduler's commands; “= predicted” means equal to the byte in this sum, "
        "the checks compare every node and engine.",
    )


def overhead(evidence: Evidence) -> Table:
    rows = [
        (
            "null engine" if run.manifest.backend == "null" else run.manifest.backend,
            run.cluster.name,
            run.arm,
            run.manifest.trace.agents,
            number(coordinator_ms_per_turn(run)),
            str(run.directory),
        )
        for run in (*evidence.null, *(cell.middle for cell in evidence.cells))
    ]
    note = "Time the coordinator was busy per turn, sharing the machine's cores with the engines."
    if evidence.null:
        note += " The null engine completes every command at once, so its row is the harness alone."
    return table(
        "The harness's own cost",
        ("backend|", "cluster|", "arm|", "agents", "coordinator, ms/turn", "run|"),
        rows,
        note,
    )


def noises(evidence: Evidence) -> Table:
    rows = []
    for cell in evidence.cells:
        found = noise(cell.runs)
        if found is not None:
            jcts = ", ".join(number(value) for value in found.jct_s)
            rows.append((cell.group, cell.arm, jcts, shown(found.spread, ".2%")))
    return table("A against A", ("cluster|", "arm|", "JCT of the repeats, s|", "largest / smallest − 1"), rows)


def voids(evidence: Evidence) -> Table:
    rows = [
        (run.cluster.name, run.arm, run.manifest.repeat, "; ".join(run.reasons), str(run.directory))
        for run in evidence.void
    ]
    note = (
        "A void run did not finish every turn. It is neither a result nor a regression, and no figure or mean uses it."
    )
    return table("Void runs", ("cluster|", "arm|", "repeat", "why|", "run|"), rows, note)


def stand_ins(evidence: Evidence) -> Table:
    found = dict.fromkeys(tuple(row) for run in evidence.runs for row in run.manifest.stand_ins)
    return table("What is real and what stands in", ("part|", "real|", "in these runs|"), list(found))


def storages(evidence: Evidence) -> Table:
    found: dict[tuple[str, ...], int] = {}
    for run in evidence.runs:
        storage = run.manifest.storage
        direct = {
            True: "past the page cache (O_DIRECT)",
            False: "THROUGH THE PAGE CACHE",
            None: "nothing was read",
        }[storage.get("direct_io")]
        key = (str(storage.get("filesystem", "?")), direct, str(storage.get("note") or ""), run.manifest.backend)
        found[key] = found.get(key, 0) + 1
    rows = [(backend, filesystem, direct, note, count) for (filesystem, direct, note, backend), count in found.items()]
    return table("Storage", ("backend|", "file system|", "reads go|", "note|", "runs"), rows)


def definitions() -> Table:
    rows = [
        (metric.tag, metric.shown_unit, metric.formula, "larger" if metric.larger_is_better else "smaller")
        for metric in METRICS.values()
    ]
    return table("Metrics", ("metric|", "unit|", "formula|", "better|"), rows)


def provenance(evidence: Evidence) -> Table:
    rows = []
    for run in evidence.runs:
        manifest = run.manifest
        rows.append(
            (
                str(run.directory),
                manifest.status if not run.void else "void",
                manifest.backend,
                f"{(manifest.commit or '?')[:10]}{' + changes' if manifest.dirty else ''}",
                f"{manifest.trace.name} {manifest.trace.sha256[:12]}",
                f"{manifest.trace.agents} agents, scale {manifest.trace.scale}, "
                f"max length {manifest.trace.max_len or 'as is'}",
                f"{manifest.feed.mode}, seed {manifest.seed}",
                ", ".join(_fact(key, value) for key, value in manifest.host.items() if value != []),
                manifest.started_at or "?",
                number(manifest.wall_s),
            )
        )
    return table(
        "Where the numbers come from",
        ("run|", "status|", "backend|", "commit|", "trace|", "size|", "feed|", "host|", "started|", "wall, s"),
        rows,
        "Raw rows (turns, links, decisions) lie in the run directories; every number above is computed from them.",
    )


def _fact(key: str, value: object) -> str:
    """One entry of run.json's host in words."""
    if key.endswith("_bytes") and isinstance(value, int):
        return f"{value / 2**30:.0f} GiB {key.removesuffix('_bytes')}"
    if isinstance(value, list | tuple):
        return " + ".join(map(str, value))
    return f"{value} {key}" if isinstance(value, int) else str(value)


def _gap_cell(gap: float | None) -> str:
    if gap is None or gap <= 1:
        return per_cent(gap)
    return Shown.of(f"{gap:.1%} (noise: the oracle was slower)", fraction=gap)


def _gap(evidence: Evidence, cell: Cell) -> float | None:
    basic, oracle = evidence.cell(cell.group, "basic"), evidence.cell(cell.group, "oracle")
    if basic is None or oracle is None or cell in (basic, oracle):
        return None
    return gap_closed(cell.jct_s, basic.jct_s, oracle.jct_s)
