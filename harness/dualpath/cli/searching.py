"""The command that searches: which rate does a system bear?"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from dualpath.cli.loads import arms_of, load_options, profile_options
from dualpath.cli.network import network_of, network_options
from dualpath.cli.shared import INTERRUPTED, PATH, VOID, example, print_json, show_table
from dualpath.core.arms import ARMS
from dualpath.plan import Plan
from dualpath.report.search import as_value, probes_table, sentences
from dualpath.results.slo import parse_slo
from dualpath.results.termination import WINDOW_S
from dualpath.search import Search, search


def _share(context: click.Context, parameter: click.Parameter, value: str) -> float:
    number, per_cent, rest = value.partition("%")
    try:
        found = float(number) / (100 if per_cent else 1)
    except ValueError:
        found = -1.0
    if rest or found < 0:
        raise click.BadParameter(f"{value!r} is no share; write 5% or 0.05", context, parameter)
    return found


@click.command(
    name="search",
    epilog=example(
        "dualpath search traces/agents-64k.parquet --cluster bench/clusters/paper-ds660b-2p4d.toml \\",
        "    --slo ttft=4s,tpot=50ms --low 0.1 --high 0.8 --arrivals-s 4500 --arm basic --arm dualpath -o OUT",
        "dualpath search traces/smoke.parquet --cluster bench/clusters/cpu-1p1d.toml --backend engine \\",
        "    --slo ttft_p99=1s --low 0.5 --high 16 --within 25% --repeats 3 --arm dualpath -o OUT",
    ),
)
@load_options
@click.option("--backend", type=click.Choice(["sim", "engine"]), default="sim", show_default=True)
@click.option(
    "--arm", "arms", type=click.Choice([*ARMS, "all"]), required=True, multiple=True, help="Several: one answer each."
)
@click.option("--slo", required=True, help="Limits, such as ttft=4s,tpot=50ms (means; also ttft_p50, ttft_p99).")
@click.option("--low", type=float, required=True, help="Smallest rate, agents per second.")
@click.option("--high", type=float, required=True, help="Largest rate.")
@click.option(
    "--within", callback=_share, default="5%", show_default=True, help="How far apart neighbouring rates may be."
)
@click.option("--repeats", type=int, default=5, show_default=True, help="Each with a seed of its own, from --seed on.")
@click.option("--arrivals-s", type=float, help="Agents arrive for so long at every rate, instead of --agents.")
@click.option(
    "--window-s",
    type=float,
    default=WINDOW_S,
    show_default=True,
    help="Judged is the last of such windows: overloaded, steady against 12 windows earlier, or arrivals ended.",
)
@click.option("-o", "--output", type=PATH, required=True, help="Folder for runs and rows. What it has is kept.")
@profile_options
@network_options
def search_command(
    trace: Path,
    cluster: Path,
    backend: Literal["sim", "engine"],
    arms: tuple[str, ...],
    slo: str,
    low: float,
    high: float,
    within: float,
    repeats: int,
    arrivals_s: float | None,
    window_s: float,
    output: Path,
    as_json: bool,
    **options: Any,
) -> int:
    """Find the largest rate of arriving agents at which TRACE keeps an SLO, with an interval, on either backend.

    "never" (not even at --low) and "always" (even at --high) are answers, too. What was interrupted goes on.
    """
    options.update(network_of(options))
    given = [key for key in ("profile", "constants", "factors") if options[key]]
    if backend == "engine" and given:
        raise click.UsageError(
            "--profile, --set and --times go with --backend sim: on the engine, work costs what it costs"
        )
    if backend == "sim" and (options["network"] or options["listen"] or options["remote"]):
        raise click.UsageError("--transport, --listen and --remote go with --backend engine")
    plan = Plan(trace, cluster, "layerwise", output, backend, **options)
    found = search(
        Search(plan, tuple(arms_of(arms)), parse_slo(slo), output, low, high, within, repeats, arrivals_s, window_s)
    )
    if found.rows:
        show_table(probes_table(found))
    for sentence in sentences(found):
        click.echo(sentence)
    print_json(as_json, as_value(found))
    return INTERRUPTED if found.is_interrupted else VOID if found.void else 0
