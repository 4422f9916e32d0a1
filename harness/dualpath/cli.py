"""The command line: parse, call one function, print.

Exit codes: 0 done; 1 a check or comparison failed; 2 the run is void; 3 bad input; 130 interrupted.
With --json the last line of stdout is one JSON object.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table as RichTable

from dualpath.calibrate import LONGEST, calibrate
from dualpath.core.arms import ARMS
from dualpath.core.errors import DualpathError
from dualpath.doctor import probe
from dualpath.plan import Outcome, Plan
from dualpath.progress import TurnProgress
from dualpath.report.table import Table
from dualpath.report.whatif import as_value, points_table, sentences
from dualpath.report.write import write_report
from dualpath.results.compare import Interval, Ratio, compare
from dualpath.results.run import Run
from dualpath.series import Step, run_plan, run_series
from dualpath.trace.commands import FORMATS, export_trace, import_trace, show_stats, synthesize_to, validate_file
from dualpath.trace.starts import FeedMode
from dualpath.whatif import DEFAULT_ARMS, Sweep, whatif

VOID, BAD_INPUT, INTERRUPTED = 2, 3, 130
_PLAIN_WIDTH = 200  # of a table that goes to a file or another program

_PATH = click.Path(path_type=Path)
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object as the last line of stdout.")


def _fraction(value: str, most: int, context: click.Context, parameter: click.Parameter) -> Fraction:
    try:  # an exponent, or many digits, could ask for a number that takes for ever to make
        fraction = Fraction(value if len(value) <= 20 and "e" not in value.lower() else "")
    except (ValueError, ZeroDivisionError):
        raise click.BadParameter(f"{value!r} is not a fraction; write 1/8 or 0.125", context, parameter) from None
    if not 0 < fraction <= most:
        raise click.BadParameter(f"{value} is outside (0, {most}]", context, parameter)
    return fraction


def _scale(context: click.Context, parameter: click.Parameter, value: str) -> Fraction:
    return _fraction(value, 1, context, parameter)


def _factor(context: click.Context, parameter: click.Parameter, value: str) -> Fraction:
    return _fraction(value, 1000, context, parameter)


def _constants(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str, float], ...]:
    found: list[tuple[str, float]] = []
    for text in values:
        name, _, value = text.partition("=")
        try:
            found.append((name, float(value)))
        except ValueError:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE, such as pass_ms=200", context, parameter) from None
    return tuple(found)


def main() -> None:
    """Entry point: our errors become one line on stderr and an exit code. SIGTERM and SIGHUP are as Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        status = cli.main(standalone_mode=False)
    except DualpathError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(BAD_INPUT)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(BAD_INPUT)
    except BrokenPipeError:  # the reader of our output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(status if isinstance(status, int) else 0)


def _example(*lines: str) -> str:
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=_example(
        "dualpath doctor",
        "dualpath replay traces/smoke.parquet --cluster bench/clusters/cpu-1p1d.toml --arm all -o RUNS",
        "dualpath report RUNS/* -o REPORT",
    ),
)
@click.version_option(package_name="dualpath")
def cli() -> None:
    """Replay multi-turn agent traces through a prefill/decode engine whose KV cache lives in storage, and measure
    which path its bytes should take."""


@cli.command(epilog=_example("dualpath doctor --directory /mnt/nvme"))
@click.option("--directory", type=_PATH, default=Path(), help="Where runs would keep their block store.")
@_JSON
def doctor(directory: Path, as_json: bool) -> None:
    """Say what this machine offers: storage, memory, io_uring, GPU, RDMA, timers."""
    findings = probe(directory)
    console = _console()
    for finding in findings:
        mark = "[green]ok[/]" if finding.ok else "[yellow]--[/]"
        hint = f"  [dim]{finding.hint}[/]" if finding.hint else ""
        console.print(f"{mark} [bold]{finding.name}[/]: {finding.value}{hint}", soft_wrap=True)
    _print_json(as_json, {"findings": [asdict(finding) for finding in findings]})


def _load_options(command: Any) -> Any:
    """What every command that serves a trace is told in the same way."""
    options = (
        click.option("--cluster", type=_PATH, required=True, help="Cluster file (TOML); see bench/clusters/."),
        click.option(
            "--agents",
            type=click.IntRange(1, 10_000_000),
            help="How many trajectories to replay. Default: all of the trace's.",
        ),
        click.option(
            "--rate", type=float, help="Online: trajectories per second, Poisson. Default: all start together."
        ),
        click.option("--recorded", is_flag=True, help="Trajectories arrive when the trace says."),
        click.option("--gap-scale", type=float, default=0.0, show_default=True, help="Factor on recorded gaps."),
        click.option(
            "--scale", callback=_scale, default="1", show_default=True, help="Factor on all lengths, such as 1/8."
        ),
        click.option(
            "--max-len", type=click.IntRange(2), help="Truncate trajectories at so many tokens, after scaling."
        ),
        click.option("--append-factor", callback=_factor, default="1", help="Factor on every append, before cutting."),
        click.option(
            "--generate-factor", callback=_factor, default="1", help="Factor on every output, before cutting."
        ),
        click.option("--seed", type=int, default=0, show_default=True, help="Token ids, weights, arrivals, copies."),
        _JSON,
    )
    for option in reversed(options):
        command = option(command)
    return click.argument("trace", type=_PATH)(command)


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
            "-o", "--output", type=_PATH, required=True, help="Run directory to make; of several arms, their folder."
        ),
        click.option("--repeat", type=click.IntRange(0), default=0, help="Number of this repeat, for the record."),
    )
    for option in reversed(options):
        command = option(command)
    return _load_options(command)


@cli.command(
    name="replay",
    epilog=_example(
        "dualpath replay traces/smoke.parquet --cluster bench/clusters/cpu-1p1d.toml --arm dualpath -o RUN",
        "dualpath replay traces/agents-32k.parquet --cluster bench/clusters/cpu-1p2d.toml --arm all \\",
        "    --agents 32 --scale 1/16 --max-len 768 -o RUNS",
        "dualpath report RUNS/* -o REPORT",
    ),
)
@_run_options
@click.option("--store", type=_PATH, help="Block store to use and keep; blocks already in it are hits.")
@click.option("--deterministic", is_flag=True, help="Batch-invariant arithmetic: bit-identical KV in every arm. Slow.")
@click.option("--verify", is_flag=True, help="Check every hit block again after each transfer; write the blocks table.")
@click.option("--null", is_flag=True, help="Engines that complete at once: measures the harness alone.")
def replay_command(arms: tuple[str, ...], store: Path | None, **options: Any) -> int:
    """Replay TRACE through the real engine into a run directory, or into one per arm. What was interrupted goes on."""
    if len(_names(arms)) > 1 and store is not None:
        raise click.UsageError("--store goes with one arm: what one arm stores would be the next one's hits")
    return _run(arms, backend="engine", store=store, **options)


@cli.command(
    name="simulate",
    epilog=_example(
        "dualpath simulate traces/agents-64k.parquet --cluster bench/clusters/paper-ds660b-2p4d.toml --arm all \\",
        "    --agents 512 -o RUNS",
        "dualpath simulate mine.parquet --cluster bench/clusters/paper-qwen32b-1p2d.toml --arm split --rate 0.2 \\",
        "    --set snic_gb_per_s=25 -o RUN",
    ),
)
@_run_options
@click.option(
    "--profile",
    metavar="FILE|NAME",
    help="What work costs: a file of `dualpath calibrate`, or a shipped profile. Default: the cluster file's.",
)
@click.option(
    "--set",
    "constants",
    multiple=True,
    callback=_constants,
    metavar="NAME=VALUE",
    help="Another value for a constant of the profile or the cluster, such as pass_ms=200.",
)
@click.option(
    "--times",
    "factors",
    multiple=True,
    callback=_constants,
    metavar="NAME=FACTOR",
    help="A factor on such a constant, such as pass_ms=1.2.",
)
@click.option("--decisions", is_flag=True, help="Keep every event and command, and the bytes they predict. Large.")
def simulate_command(arms: tuple[str, ...], **options: Any) -> int:
    """Replay TRACE in the simulator: same flags, same tables. The cluster file names a profile of what work costs."""
    return _run(arms, backend="sim", **options)


@cli.command(
    name="whatif",
    epilog=_example(
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
@click.option("-o", "--output", type=_PATH, help="Folder for rows, heat maps and a page. What it has is kept.")
@click.option("--jobs", type=click.IntRange(1, 256), default=2, show_default=True, help="Worker processes.")
@_load_options
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
    sweep = Sweep(plan, tuple(_names(arms)), nodes, snic, cnic, slo, output, jobs)
    with TurnProgress(f"what if, around {cluster.stem}", "runs") as progress:
        swept = whatif(sweep, progress.update)
    if (found := points_table(swept)).rows:
        _show_table(found)
    for sentence in sentences(swept):
        click.echo(sentence)
    if output is not None:
        click.echo(str(output / "index.html"))
    _print_json(as_json, as_value(swept))
    return INTERRUPTED if swept.is_interrupted else VOID if swept.has_failed else 0


def _names(arms: tuple[str, ...]) -> list[str]:
    return list(ARMS) if "all" in arms else list(dict.fromkeys(arms))


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
    names, mode = _names(arms), _mode(rate, recorded)

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
    _print_json(as_json, {"runs": [{**asdict(outcome), "directory": str(outcome.directory)} for outcome in outcomes]})
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


@cli.command(
    name="calibrate",
    epilog=_example(
        "dualpath calibrate --cluster bench/clusters/cpu-1p1d.toml -o machine.toml",
        "dualpath simulate traces/agents-32k.parquet --cluster bench/clusters/cpu-1p2d.toml --profile machine.toml \\",
        "    --arm all --agents 32 --scale 1/16 --max-len 768 -o RUNS",
    ),
)
@click.option("--cluster", type=_PATH, required=True, help="Cluster file (TOML): model, block size, rates of links.")
@click.option("-o", "--output", type=_PATH, required=True, help="Profile to write (TOML).")
@click.option("--longest", type=int, default=LONGEST, show_default=True, help="Tokens of the longest context measured.")
@_JSON
def calibrate_command(cluster: Path, output: Path, longest: int, as_json: bool) -> None:
    """Measure what this machine's work costs, through the engine's own parts, for the simulator. Takes a minute, on an
    otherwise idle machine."""
    found = calibrate(cluster, output, lambda line: click.echo(line, err=True), longest)
    for name, constant in found.constants.items():
        click.echo(f"{name:26} {constant.value:12.6g}  {constant.source}")
    click.echo(str(output))
    _print_json(
        as_json,
        {
            "profile": str(output),
            "constants": {name: constant.value for name, constant in found.constants.items()},
            "residuals": found.residuals,
            "notes": found.notes,
        },
    )


@cli.command(name="compare", epilog=_example("dualpath compare RUNS/layerwise RUNS/dualpath"))
@click.argument("run_a", type=_PATH)
@click.argument("run_b", type=_PATH)
@_JSON
def compare_command(run_a: Path, run_b: Path, as_json: bool) -> None:
    """Compare RUN_B with RUN_A, trajectory by trajectory."""
    found = compare(Run.load(run_a), Run.load(run_b))

    def line(name: str, found: Interval | Ratio, unit: str, what: str = "95 %") -> None:
        click.echo(f"{name:32} {found.value:9.3f} {unit:2} {what} [{found.low:.3f}, {found.high:.3f}]")

    click.echo(f"A {run_a}\nB {run_b}   ({found.trajectories} trajectories, paired)")
    line("speed-up, JCT A / JCT B", found.speed_up, "x", f"range of {found.speed_up.pairs} pairs")
    line("mean trajectory time, A / B", found.trajectory_speed_up, "x")
    line("trajectory time, B - A", found.trajectory_jct_difference_s, "s")
    line("TTFT, B - A", found.ttft_difference_s, "s")
    _print_json(as_json, asdict(found))


@cli.command(epilog=_example("dualpath report RUNS/* -o report", "xdg-open report/index.html"))
@click.argument("runs", type=_PATH, nargs=-1, required=True)
@click.option("-o", "--output", type=_PATH, required=True, help="Folder of the report.")
@click.option("--title", default="KV-cache loading: single path, dual path, split", show_default=True)
@_JSON
def report(runs: tuple[Path, ...], output: Path, title: str, as_json: bool) -> None:
    """Make one self-contained HTML page, figures and Markdown of any set of RUNS."""
    page = write_report(runs, output, title=title)
    click.echo(str(page))
    _print_json(as_json, {"page": str(page)})


@cli.group(
    epilog=_example(
        "dualpath trace synth --set 32k -o agents-32k.parquet",
        "dualpath trace stats agents-32k.parquet",
    )
)
def trace() -> None:
    """Make, import, check and describe traces."""


@trace.command(
    name="import",
    epilog=_example(
        "dualpath trace import kv-cache-tester SESSIONS_FOLDER -o mine.parquet",
        "dualpath trace import table turns.csv -o mine.parquet",
    ),
)
@click.argument("format", type=click.Choice(FORMATS))
@click.argument("path", type=_PATH)
@click.option("-o", "--output", type=_PATH, required=True)
def import_command(format: str, path: Path, output: Path) -> None:
    """Turn PATH, in FORMAT, into a trace file. Says on stderr what was given, derived or dropped."""
    for line in import_trace(format, path, output):
        click.echo(line, err=True)
    click.echo(str(output))


@trace.command(epilog=_example("dualpath trace export mooncake mine.parquet -o mine.jsonl"))
@click.argument("format", type=click.Choice(["mooncake"]))
@click.argument("path", type=_PATH)
@click.option("-o", "--output", type=_PATH, required=True)
def export(format: str, path: Path, output: Path) -> None:
    """Write a trace file in another FORMAT."""
    for line in export_trace(format, path, output):
        click.echo(line, err=True)
    click.echo(str(output))


@trace.command(epilog=_example("dualpath trace synth --set 48k --sessions 500 --seed 0 -o agents-48k.parquet"))
@click.option("--set", "set_name", type=click.Choice(["32k", "48k", "64k"]), required=True, help="Maximum length.")
@click.option("--sessions", type=click.IntRange(1), default=500, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("-o", "--output", type=_PATH, required=True)
def synth(set_name: str, sessions: int, seed: int, output: Path) -> None:
    """Draw agent trajectories like those of the paper's Table 2."""
    click.echo(synthesize_to(set_name, sessions, seed, output))


@trace.command(epilog=_example("dualpath trace stats traces/agents-64k.parquet --json"))
@click.argument("path", type=_PATH)
@_JSON
def stats(path: Path, as_json: bool) -> None:
    """Describe a trace: turns, lengths, context, hit rates, delays, and the columns of the paper's Table 2."""
    text, value = show_stats(path)
    click.echo(text)
    _print_json(as_json, value)


@trace.command(epilog=_example("dualpath trace validate mine.parquet"))
@click.argument("path", type=_PATH)
@_JSON
def validate(path: Path, as_json: bool) -> int:
    """Check every row of a trace file; lists what is wrong, with row and column."""
    problems = validate_file(path)
    for problem in problems:
        click.echo(problem, err=True)
    if not problems:
        click.echo(f"{path}: valid")
    _print_json(as_json, {"path": str(path), "problems": problems})
    return BAD_INPUT if problems else 0


def _show_table(found: Table) -> None:
    shown = RichTable(caption=found.note, caption_justify="left", box=None, pad_edge=False)
    for column in range(len(found.columns)):
        shown.add_column(found.heading(column), justify="left" if found.is_text(column) else "right", no_wrap=False)
    for row in found.rows:
        shown.add_row(*row)
    console = _console()
    console.width = max(console.width, 1 if console.is_terminal else _PLAIN_WIDTH)
    console.print(shown)


def _console() -> Console:
    return Console(highlight=False)


def _print_json(wanted: bool, value: object) -> None:
    if wanted:
        click.echo(json.dumps(value, default=str))
