"""Commands that simulate many times over: whatif (a sweep around a cluster)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dualpath.cli.loads import arms_of, arrival_options, load_options, mode_of
from dualpath.cli.shared import INTERRUPTED, PATH, VOID, example, print_json, show_table
from dualpath.core.arms import ARMS
from dualpath.plan import Plan
from dualpath.progress import TurnProgress
from dualpath.report.whatif import as_value, points_table, sentences
from dualpath.whatif import DEFAULT_ARMS, Sweep, whatif


@click.command(
    name="whatif",
    epilog=example(
        "dualpath whatif traces/agents-64k.parquet --model ds-660b \\",
        "    --cluster bench/clusters/paper-ds660b-2p4d.toml -o OUT",
        "dualpath whatif mine.parquet --cluster mine.toml --nodes 2P4D,3P3D --snic 200Gbit/s,400Gbit/s -o OUT",
        "dualpath whatif mine.parquet --cluster mine.toml --rate 0.2 --slo ttft=4s,tpot=50ms -o OUT",
    ),
)
@click.option("--model", help="Instead of the cluster file's model and profile: both by this name, such as ds-660b.")
@click.option(
    "--arm",
    "arms",
    type=click.Choice([*ARMS, "all"]),
    multiple=True,
    default=DEFAULT_ARMS,
    show_default=True,
    help="Arms to simulate; layerwise always is: the others are held against it.",
)
@click.option(
    "--nodes", help="Prefill and decode nodes, such as 1P5D,2P4D. Default: as many nodes, shared out otherwise."
)
@click.option("--snic", help="Rates of a storage NIC, such as 100Gbit/s,400Gbit/s. Default: from a quarter to twice.")
@click.option("--cnic", help="Rates of a compute NIC. Default: from an eighth to what it is.")
@click.option("--slo", help="Say which points keep it, such as ttft=4s,tpot=50ms (means; also ttft_p99). With --rate.")
@click.option("-o", "--output", type=PATH, help="Folder for rows, heat maps and a page. What it has is kept.")
@click.option("--jobs", type=click.IntRange(1, 256), default=2, show_default=True, help="Worker processes.")
@arrival_options
@load_options
def whatif_command(
    trace: Path,
    cluster: Path,
    arms: tuple[str, ...],
    output: Path | None,
    rate: float | None,
    recorded: bool,
    as_json: bool,
    nodes: str | None,
    snic: str | None,
    cnic: str | None,
    slo: str | None,
    jobs: int,
    **options: Any,
) -> int:
    """Where dual-path loading would pay around a cluster: sweeps its P/D ratio and NIC rates in the simulator."""
    mode = mode_of(rate, recorded)
    plan = Plan(trace, cluster, "layerwise", output or Path(), "sim", mode=mode, rate_per_s=rate, **options)
    sweep = Sweep(plan, tuple(arms_of(arms)), nodes, snic, cnic, slo, output, jobs)
    with TurnProgress(f"what if, around {cluster.stem}", "runs") as progress:
        swept = whatif(sweep, progress.update)
    if (found := points_table(swept)).rows:
        show_table(found)
    for sentence in sentences(swept):
        click.echo(sentence)
    if output is not None:
        click.echo(str(output / "index.html"))
    print_json(as_json, as_value(swept))
    return INTERRUPTED if swept.is_interrupted else VOID if swept.has_failed else 0
