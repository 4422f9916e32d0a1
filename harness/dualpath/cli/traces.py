"""`dualpath trace`: make, import, check and describe traces."""

from __future__ import annotations

from pathlib import Path

import click

from dualpath.cli.shared import BAD_INPUT, JSON, PATH, example, print_json
from dualpath.trace.commands import FORMATS, export_trace, import_trace, show_stats, synthesize_to, validate_file


@click.group(
    epilog=example(
        "dualpath trace synth --set 32k -o agents-32k.parquet",
        "dualpath trace stats agents-32k.parquet",
    )
)
def trace() -> None:
    """Make, import, check and describe traces."""


@trace.command(
    name="import",
    epilog=example(
        "dualpath trace import kv-cache-tester SESSIONS_FOLDER -o mine.parquet",
        "dualpath trace import table turns.csv -o mine.parquet",
    ),
)
@click.argument("format", type=click.Choice(FORMATS))
@click.argument("path", type=PATH)
@click.option("-o", "--output", type=PATH, required=True)
def import_command(format: str, path: Path, output: Path) -> None:
    """Turn PATH, in FORMAT, into a trace file. Says on stderr what was given, derived or dropped."""
    for line in import_trace(format, path, output):
        click.echo(line, err=True)
    click.echo(str(output))


@trace.command(epilog=example("dualpath trace export mooncake mine.parquet -o mine.jsonl"))
@click.argument("format", type=click.Choice(["mooncake"]))
@click.argument("path", type=PATH)
@click.option("-o", "--output", type=PATH, required=True)
def export(format: str, path: Path, output: Path) -> None:
    """Write a trace file in another FORMAT."""
    for line in export_trace(format, path, output):
        click.echo(line, err=True)
    click.echo(str(output))


@trace.command(epilog=example("dualpath trace synth --set 48k --sessions 500 --seed 0 -o agents-48k.parquet"))
@click.option("--set", "set_name", type=click.Choice(["32k", "48k", "64k"]), required=True, help="Maximum length.")
@click.option("--sessions", type=click.IntRange(1), default=500, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("-o", "--output", type=PATH, required=True)
def synth(set_name: str, sessions: int, seed: int, output: Path) -> None:
    """Draw agent trajectories like those of the paper's Table 2."""
    click.echo(synthesize_to(set_name, sessions, seed, output))


@trace.command(epilog=example("dualpath trace stats traces/agents-64k.parquet --json"))
@click.argument("path", type=PATH)
@JSON
def stats(path: Path, as_json: bool) -> None:
    """Describe a trace: turns, lengths, context, hit rates, delays, and the columns of the paper's Table 2."""
    text, value = show_stats(path)
    click.echo(text)
    print_json(as_json, value)


@trace.command(epilog=example("dualpath trace validate mine.parquet"))
@click.argument("path", type=PATH)
@JSON
def validate(path: Path, as_json: bool) -> int:
    """Check every row of a trace file; lists what is wrong, with row and column."""
    problems = validate_file(path)
    for problem in problems:
        click.echo(problem, err=True)
    if not problems:
        click.echo(f"{path}: valid")
    print_json(as_json, {"path": str(path), "problems": problems})
    return BAD_INPUT if problems else 0
