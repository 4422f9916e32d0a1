"""Commands about this machine: what it offers (doctor), what work costs on it (calibrate)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from dualpath.calibrate import LONGEST, calibrate
from dualpath.cli.shared import JSON, PATH, console, example, print_json
from dualpath.doctor import probe


@click.command(epilog=example("dualpath doctor --directory /mnt/nvme"))
@click.option("--directory", type=PATH, default=Path(), help="Where runs would keep their block store.")
@JSON
def doctor(directory: Path, as_json: bool) -> None:
    """Say what this machine offers: storage, memory, io_uring, GPU, RDMA, timers."""
    findings = probe(directory)
    shown = console()
    for finding in findings:
        mark = "[green]ok[/]" if finding.ok else "[yellow]--[/]"
        hint = f"  [dim]{finding.hint}[/]" if finding.hint else ""
        shown.print(f"{mark} [bold]{finding.name}[/]: {finding.value}{hint}", soft_wrap=True)
    print_json(as_json, {"findings": [asdict(finding) for finding in findings]})


@click.command(
    name="calibrate",
    epilog=example(
        "dualpath calibrate --cluster bench/clusters/cpu-1p1d.toml -o machine.toml",
        "dualpath simulate traces/agents-32k.parquet --cluster bench/clusters/cpu-1p2d.toml --profile machine.toml \\",
        "    --arm all --agents 32 --scale 1/16 --max-len 768 -o RUNS",
    ),
)
@click.option("--cluster", type=PATH, required=True, help="Cluster file (TOML): model, block size, rates of links.")
@click.option("-o", "--output", type=PATH, required=True, help="Profile to write (TOML).")
@click.option("--longest", type=int, default=LONGEST, show_default=True, help="Tokens of the longest context measured.")
@JSON
def calibrate_command(cluster: Path, output: Path, longest: int, as_json: bool) -> None:
    """Measure what this machine's work costs, through the engine's own parts, for the simulator. Takes a minute, on an
    otherwise idle machine."""
    found = calibrate(cluster, output, lambda line: click.echo(line, err=True), longest)
    for name, constant in found.constants.items():
        click.echo(f"{name:26} {constant.value:12.6g}  {constant.source}")
    click.echo(str(output))
    print_json(
        as_json,
        {
            "profile": str(output),
            "constants": {name: constant.value for name, constant in found.constants.items()},
            "residuals": found.residuals,
            "notes": found.notes,
        },
    )
