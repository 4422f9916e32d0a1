"""Commands that serve a trace: replay (real engine), simulate (the same flags), whatif (a sweep of simulations)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from dualpath.cli.loads import arms_of, arrival_options, load_options, profile_options
from dualpath.cli.network import network_of, network_options
from dualpath.cli.shared import INTERRUPTED, PATH, VOID, example, print_json, show_table
from dualpath.core.arms import ARMS
from dualpath.plan import Outcome, Plan
from dualpath.progress import TurnProgress
from dualpath.report.whatif import as_value, points_table, sentences
from dualpath.series import Step, run_plan, run_series
from dualpath.trace.starts import FeedMode
from dualpath.whatif import DEFAULT_ARMS, Sweep, whatif


def _run_options(command: Any) -> Any:
    """What `replay` and `simulate` are told in the same way."""
    options = (
        click.option(
            "--arm",
            "arms",
            type=click.Choice([*ARMS, "all"]),
            required=True,
            multiple=True,
            help="How KV is loaded and requests are placed. Several, or all: one run each, in OUTPUT/ARM.",
        ),
        click.option(
            "-o", "--output", type=PATH, required=True, help="Run directory to make; of several arms, their folder."
        ),
        click.option("--repeat", type=click.IntRange(0), default=0, help="Number of this repeat, for the record."),
    )
    for option in reversed(options):
        command = option(command)
    return arrival_options(load_options(command))


@click.command(
    name="replay",
    epilog=example(
        "dualpath replay traces/smoke.parquet --cluster bench/clusters/cpu-1p1d.toml --arm dualpath -o RUN",
        "dualpath replay traces/agents-32k.parquet --cluster bench/clusters/cpu-1p2d.toml --arm all \\",
        "    --agents 32 --scale 1/16 --max-len 768 -o RUNS",
        "dualpath report RUNS/* -o REPORT",
    ),
)
@_run_options
@click.option("--store", type=PATH, help="Block store to use and keep; blocks already in it are hits.")
@click.option("--deterministic", is_flag=True, help="Batch-invariant arithmetic: bit-identical KV in every arm. Slow.")
@click.option("--verify", is_flag=True, help="Check every hit block again after each transfer; write the blocks table.")
@click.option("--null", is_flag=True, help="Engines that complete at once: measures the harness alone.")
@network_options
def replay_command(
    arms: tuple[str, ...],
    store: Path | None,
    **options: Any,
) -> int:
    """Replay TRACE through the real engine into a run directory, or into one per arm. What was interrupted goes on."""
    if len(arms_of(arms)) > 1 and store is not None:
        raise click.UsageError("--store goes with one arm: what one arm stores would be the next one's hits")
    options.update(network_of(options))
    return _run(arms, backend="engine", store=store, **options)


@click.command(
    name="simulate",
    epilog=example(
        "dualpath simulate traces/agents-64k.parquet --cluster bench/clusters/paper-ds660b-2p4d.toml --arm all \\",
        "    --agents 512 -o RUNS",
        "dualpath simulate mine.parquet --cluster bench/clusters/paper-qwen32b-1p2d.toml --arm split --rate 0.2 \\",
        "    --set snic_gb_per_s=25 -o RUN",
    ),
)
@_run_options
@profile_options
@click.option("--decisions", is_flag=True, help="Keep every event and command, and the bytes they predict. Large.")
def simulate_command(arms: tuple[str, ...], **options: Any) -> int:
    """Replay TRACE in the simulator: same flags, same tables. The cluster file names a profile of what work costs."""
    return _run(arms, backend="sim", **options)


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
    mode = _mode(rate, recorded)
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


def _mode(rate: float | None, recorded: bool) -> FeedMode:
    if rate is not None and recorded:
        raise click.UsageError("--rate and --recorded exclude each other: arrivals are Poisson or recorded")
    return "online" if rate is not None else "recorded" if recorded else "offline"


def _run(
    arms: tuple[str, ...],
    trace: Path,
    cluster: Path,
    output: Path,
    rate: float | None,
    recorded: bool,
    as_json: bool,
    **options: Any,
) -> int:
    names, mode = arms_of(arms), _mode(rate, recorded)

    def plan(arm: str, output: Path) -> Plan:
        return Plan(trace, cluster, arm, output, mode=mode, rate_per_s=rate, **options)

    if len(names) > 1:
        outcomes = run_series(
            [Step(f"{arm} on {cluster.stem}", plan(arm, output / arm)) for arm in names], replace=False
        )
    else:
        with TurnProgress(f"{names[0]} on {cluster.stem}") as progress:
            outcomes = [run_plan(plan(names[0], output), progress.update)]
    for outcome in outcomes:
        _say_outcome(outcome)
    print_json(as_json, {"runs": [{**asdict(outcome), "directory": str(outcome.directory)} for outcome in outcomes]})
    if any(outcome.interrupted for outcome in outcomes):
        return INTERRUPTED
    return 0 if all(outcome.status == "ok" for outcome in outcomes) else VOID


def _say_outcome(outcome: Outcome) -> None:
    if outcome.warning:
        click.echo(f"{outcome.directory}: warning: {outcome.warning}", err=True)
    if outcome.status == "ok":
        click.echo(f"{outcome.directory}: {outcome.turns} turns, JCT {outcome.jct_s:.2f} s")
        return
    click.echo(f"{outcome.directory}: VOID after {outcome.turns} of {outcome.turns_planned} turns", err=True)
    for reason in outcome.reasons:
        click.echo(f"  {reason}", err=True)
