"""Commands that read runs: compare two, report on many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from dualpath.cli.shared import JSON, PATH, VOID, example, print_json, show_table
from dualpath.report.latency_tables import LATENCY_COLUMNS, lag_text, latency_cells
from dualpath.report.table import Table, table
from dualpath.report.write import write_report
from dualpath.results.compare import Comparison, Ratio, compare
from dualpath.results.intervals import FEWEST_GROUPS, Interval
from dualpath.results.latencies import LATENCIES, Latency, latencies
from dualpath.results.run import Run
from dualpath.results.send_lag import send_lag


@click.command(name="compare", epilog=example("dualpath compare RUNS/layerwise RUNS/dualpath"))
@click.argument("run_a", type=PATH)
@click.argument("run_b", type=PATH)
@JSON
def compare_command(run_a: Path, run_b: Path, as_json: bool) -> int:
    """Compare RUN_B with RUN_A: differences, trajectory by trajectory, and the latencies of both.

    Every number comes with its 95 % interval: how far it depends on which trajectories, and times, were in the run.
    What a machine does from run to run is not in it; compare A with a second run of A to see that. A void run has no
    differences, and exits with 2; its latencies are shown, turns that did not end counting as infinite. A run is
    DEGRADED where the harness itself was late.
    """
    runs = [Run.load(run_a), Run.load(run_b)]
    void = [run for run in runs if run.void]
    found = None if void else compare(*runs)
    click.echo(f"A {run_a}\nB {run_b}")
    for run in void:
        click.echo(f"no speed-up: {run.directory} is void ({'; '.join(run.reasons)})")
    if found is not None:
        _show_differences(found)
    sides = [latencies(run) for run in runs]
    show_table(_latency_table(sides))
    lags = [send_lag(run) for run in runs]
    for side, lag in zip("AB", lags, strict=True):
        click.echo(f"send lag of {side}: {lag_text(lag)}")
    print_json(
        as_json,
        {
            **(_comparison_value(found) if found is not None else {}),
            **{
                side: {
                    "void": list(run.reasons),
                    "latencies": [_latency_value(each) for each in own],
                    "send_lag": None if lag is None else {**asdict(lag), "degraded_at": lag.degraded_at},
                }
                for side, run, own, lag in zip(("run_a", "run_b"), runs, sides, lags, strict=True)
            },
        },
    )
    return VOID if void else 0


def _show_differences(found: Comparison) -> None:
    def line(name: str, value: float, unit: str, words: str) -> None:
        click.echo(f"{name:32} {value:9.3f} {unit:2} {words}")

    def with_interval(name: str, each: Interval, unit: str, trajectories: int) -> None:
        few = f"no interval: {trajectories} trajectories have a value, of at least {FEWEST_GROUPS} that it needs"
        line(name, each.value, unit, f"95 % [{each.low:.3f}, {each.high:.3f}]" if each.is_known else few)

    click.echo(f"{found.trajectories} trajectories, paired; intervals: which ones there were, not the machine's noise")
    line("speed-up, JCT A / JCT B", found.speed_up.value, "x", _pairs_text(found.speed_up))
    with_interval("mean trajectory time, A / B", found.trajectory_speed_up, "x", found.trajectories)
    with_interval("trajectory time, B - A", found.trajectory_jct_difference_s, "s", found.trajectories)
    for name, difference in found.latency_differences_s.items():
        if difference is not None:
            with_interval(f"{LATENCIES[name]}, B - A", difference, "s", found.latency_trajectories[name])


def _pairs_text(found: Ratio) -> str:
    """One pair has no range."""
    return "1 pair" if found.pairs == 1 else f"range of {found.pairs} pairs [{found.low:.3f}, {found.high:.3f}]"


def _comparison_value(found: Comparison) -> dict[str, object]:
    return {
        **asdict(found),
        "trajectory_speed_up": _interval_value(found.trajectory_speed_up),
        "trajectory_jct_difference_s": _interval_value(found.trajectory_jct_difference_s),
        "latency_differences_s": {name: _interval_value(each) for name, each in found.latency_differences_s.items()},
    }


def _latency_value(found: Latency) -> dict[str, object]:
    intervals = {"mean": found.mean, "p50": found.p50, "p95": found.p95, "p99": found.p99}
    return {
        "name": found.name,
        "turns": found.turns,
        "failed": found.failed,
        "effective": found.effective,
        **{f"{name}_ns": _interval_value(each) for name, each in intervals.items()},
    }


def _interval_value(found: Interval | None) -> dict[str, object] | None:
    """Ends are null where there are too few groups for an interval."""
    if found is None:
        return None
    return asdict(found) if found.is_known else {**asdict(found), "low": None, "high": None}


def _latency_table(sides: Sequence[Sequence[Latency]]) -> Table:
    rows = [
        (LATENCIES[each.name], side, *latency_cells(each))
        for pair in zip(*sides, strict=True)
        for side, each in zip("AB", pair, strict=True)
    ]
    return table("Latencies", ("latency|", "run|", *LATENCY_COLUMNS), rows)


@click.command(epilog=example("dualpath report RUNS/* -o report", "xdg-open report/index.html"))
@click.argument("runs", type=PATH, nargs=-1, required=True)
@click.option("-o", "--output", type=PATH, required=True, help="Folder of the report.")
@click.option("--title", default="KV-cache loading: single path, dual path, split", show_default=True)
@JSON
def report(runs: tuple[Path, ...], output: Path, title: str, as_json: bool) -> None:
    """Make one self-contained HTML page, figures and Markdown of any set of RUNS."""
    page = write_report(runs, output, title=title)
    click.echo(str(page))
    print_json(as_json, {"page": str(page)})
