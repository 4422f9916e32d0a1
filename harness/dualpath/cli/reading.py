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
from dualpath.results.intervals import Interval
from dualpath.results.latencies import LATENCIES, Latency, latencies
from dualpath.results.run import Run
from dualpath.results.send_lag import send_lag


@click.command(name="compare", epilog=example("dualpath compare RUNS/layerwise RUNS/dualpath"))
@click.argument("run_a", type=PATH)
@click.argument("run_b", type=PATH)
@JSON
def compare_command(run_a: Path, run_b: Path, as_json: bool) -> int:
    """Compare RUN_B with RUN_A: differences, trajectory by trajectory, and the latencies of both.

    Every number comes with its 95 % interval. A void run has no differences, and exits with 2; its latencies are
    shown, turns that did not end counting as infinite. A run is DEGRADED where the harness itself was late.
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
            **(asdict(found) if found is not None else {}),
            **{
                side: {
                    "void": list(run.reasons),
                    "latencies": [asdict(each) for each in own],
                    "send_lag": None if lag is None else {**asdict(lag), "degraded_at": lag.degraded_at},
                }
                for side, run, own, lag in zip(("run_a", "run_b"), runs, sides, lags, strict=True)
            },
        },
    )
    return VOID if void else 0


def _show_differences(found: Comparison) -> None:
    def line(name: str, found: Interval | Ratio | None, unit: str, what: str = "95 %") -> None:
        if isinstance(found, Interval) and not found.is_known:
            click.echo(f"{name:32} {found.value:9.3f} {unit:2} no interval: too few trajectories")
        elif found is not None:
            click.echo(f"{name:32} {found.value:9.3f} {unit:2} {what} [{found.low:.3f}, {found.high:.3f}]")

    click.echo(f"{found.trajectories} trajectories, paired")
    line("speed-up, JCT A / JCT B", found.speed_up, "x", f"range of {found.speed_up.pairs} pairs")
    line("mean trajectory time, A / B", found.trajectory_speed_up, "x")
    line("trajectory time, B - A", found.trajectory_jct_difference_s, "s")
    for name, difference in found.latency_differences_s.items():
        line(f"{LATENCIES[name]}, B - A", difference, "s")


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
