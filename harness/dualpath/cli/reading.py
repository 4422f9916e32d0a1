"""Commands that read runs: compare two, report on many."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from dualpath.cli.shared import JSON, PATH, example, print_json
from dualpath.report.table import NONE, number
from dualpath.report.write import write_report
from dualpath.results.compare import Ratio, compare, compare_percentiles
from dualpath.results.intervals import Interval
from dualpath.results.run import Run


@click.command(name="compare", epilog=example("dualpath compare RUNS/layerwise RUNS/dualpath"))
@click.argument("run_a", type=PATH)
@click.argument("run_b", type=PATH)
@JSON
def compare_command(run_a: Path, run_b: Path, as_json: bool) -> None:
    """Compare RUN_B with RUN_A, trajectory by trajectory."""
    a, b = Run.load(run_a), Run.load(run_b)
    found, percentiles = compare(a, b), compare_percentiles(a, b)

    def line(name: str, found: Interval | Ratio, unit: str, what: str = "95 %") -> None:
        click.echo(f"{name:32} {found.value:9.3f} {unit:2} {what} [{found.low:.3f}, {found.high:.3f}]")

    click.echo(f"A {run_a}\nB {run_b}   ({found.trajectories} trajectories, paired)")
    line("speed-up, JCT A / JCT B", found.speed_up, "x", f"range of {found.speed_up.pairs} pairs")
    line("mean trajectory time, A / B", found.trajectory_speed_up, "x")
    line("trajectory time, B - A", found.trajectory_jct_difference_s, "s")
    line("TTFT, B - A", found.ttft_difference_s, "s")
    click.echo(f"{'latency, ms [95 %]':18}{'A':>28}{'B':>28}")
    for each in percentiles:
        sides = (_milliseconds(interval) for interval in (each.a_ns, each.b_ns))
        click.echo(f"{each.latency.upper():6}p{100 * each.quantile:<11g}" + "".join(f"{side:>28}" for side in sides))
    print_json(as_json, {**asdict(found), "percentiles": [asdict(each) for each in percentiles]})


def _milliseconds(found: Interval | None) -> str:
    return (
        NONE
        if found is None
        else f"{number(found.value, 1e-6)} [{number(found.low, 1e-6)}, {number(found.high, 1e-6)}]"
    )


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
