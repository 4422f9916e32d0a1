"""Commands that serve a trace: replay (real engine), simulate (the same flags)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from dualpath.cli.loads import arms_of, arrival_options, load_options, mode_of, profile_options
from dualpath.cli.network import network_of, network_options
from dualpath.cli.shared import INTERRUPTED, PATH, VOID, example, print_json
from dualpath.core.arms import ARMS
from dualpath.plan import Outcome, Plan
from dualpath.progress import TurnProgress
from dualpath.series import Step, run_plan, run_series


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
    """Replay TRACE through the real engine into a run directory, or into one per arm.

    Of several arms, those that are whole are kept when it is begun again.
    """
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
    """Replay TRACE in the simulator: the same choice of work, the same tables.

    The cluster file names a profile of what work costs.
    """
    return _run(arms, backend="sim", **options)


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
    names, mode = arms_of(arms), mode_of(rate, recorded)

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
        if len(names) > 1:
            click.echo("the same command keeps the arms that are whole, and goes on", err=True)
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
