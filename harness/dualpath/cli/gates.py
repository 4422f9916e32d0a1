"""Commands that judge: gate (does a change make it slower?)."""

from __future__ import annotations

import os
from pathlib import Path

import click

from dualpath.cli.shared import JSON, PATH, console, example, print_json, show_table
from dualpath.core.errors import PlanError, RunError
from dualpath.gate.gate import TIERS, Request, gate
from dualpath.report.table import table


@click.command(
    name="gate",
    epilog=example(
        "dualpath gate bench/gates/ci.toml --base HEAD^                 # what did the last commit change?",
        "dualpath gate bench/gates/ci.toml --base main --tier 1 --tier 2",
        "dualpath gate bench/gates/ci.toml --base HEAD --candidate HEAD  # A against A: what does the machine do?",
    ),
)
@click.argument("spec", type=PATH)
@click.option("--base", default="HEAD", show_default=True, help="Commit, or a folder with a checkout.")
@click.option("--candidate", default=".", show_default=True, help="Likewise; a folder is measured as it is.")
@click.option(
    "--tier", "tiers", type=click.Choice([str(tier) for tier in TIERS]), multiple=True, help="Default: all in SPEC."
)
@click.option("-o", "--output", type=PATH, default=Path("bench/out/gate"), show_default=True, help="Folder for rows.")
@click.option(
    "--github",
    is_flag=True,
    help="Also write a GitHub Actions job's summary, to the file that GITHUB_STEP_SUMMARY names.",
)
@JSON
def gate_command(
    spec: Path, base: str, candidate: str, tiers: tuple[str, ...], output: Path, github: bool, as_json: bool
) -> int:
    """Measure a change as SPEC says and judge it: 0 pass, 1 it is worse, 2 void (part of it could not be measured).

    Tier 1 compares counters, exactly; tier 2 instructions of the hot loops; tier 3 wall time, in pairs; tier 4, with
    a nightly history, base against base and what changed over nights.
    """
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if github and not summary:
        raise PlanError("--github: GITHUB_STEP_SUMMARY is not set; it is where GitHub Actions reads a job's summary")
    verdict = gate(
        Request(spec, base, candidate, output, tuple(map(int, tiers))), lambda line: click.echo(line, err=True)
    )
    if github and summary:
        _append(Path(summary), verdict.as_markdown())
    show_table(table("", ("tier|", "what|", "verdict|", "candidate against base|", "limit|"), verdict.rows()))
    shown = console()
    for reason in verdict.reasons:
        shown.print(reason, soft_wrap=True, markup=False)
    shown.print(verdict.headline, soft_wrap=True, markup=False)
    print_json(as_json, verdict.as_json())
    return verdict.exit_code


def _append(summary: Path, text: str) -> None:
    try:
        with summary.open("a", encoding="utf-8") as page:
            page.write(text)
    except OSError as error:
        raise RunError(f"--github: {summary} (GITHUB_STEP_SUMMARY) cannot be written: {error.strerror}") from None
