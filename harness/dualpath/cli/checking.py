"""The command that measures the instrument itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from dualpath.cli.shared import CHECK_FAILED, INTERRUPTED, JSON, PATH, VOID, example, print_json, show_table
from dualpath.report.table import NONE, table
from dualpath.selfcheck import Limits, selfcheck

_DEFAULTS = {field.name: field.default for field in fields(Limits)}


def _limit(name: str, text: str) -> Callable[[Any], Any]:
    option = f"--{name.replace('_', '-')}"
    return click.option(option, name, type=float, default=_DEFAULTS[name], show_default=True, help=text)


@click.command(
    name="selfcheck",
    epilog=example(
        "dualpath selfcheck -o SELFCHECK                         # half a minute, on an otherwise idle machine",
        "dualpath selfcheck -o PLANTED --plant-ms 20             # more than is allowed: must fail, shows that it can",
        "dualpath selfcheck -o STRICT --allow-ms 2 --turns-per-s 400 --json",
    ),
)
@click.option(
    "-o",
    "--output",
    type=PATH,
    required=True,
    help="Folder for raw rows. An interrupted check goes on there; a complete one is measured anew.",
)
@_limit("release_ms", "Turns are released at most so long after due (p99).")
@_limit("allow_ms", "Latencies are measured at most so much longer than they are known to be (p99).")
@_limit("late_ms", "Answers later by this are seen as later by this, to a third.")
@_limit("turns_per_s", "So many turns per second can be offered ...")
@_limit("lag_ms", "... before releases are later than this (p99).")
@click.option(
    "--plant-ms",
    type=float,
    default=0.0,
    help="Make first tokens later by this, and tell no claim: above --allow-ms, one must fail.",
)
@JSON
def selfcheck_command(output: Path, plant_ms: float, as_json: bool, **limits: float) -> int:
    """Measure the instrument: engines that answer after known delays stand in, and what is measured must agree.

    0: every claim holds; 1: one does not; 2: a run was void.
    """
    found = selfcheck(output, Limits(**limits), plant_ms)
    rows = [
        (
            claim.what,
            claim.known or NONE,
            f"{claim.value:.3f}" if claim.unit == "ms" else f"{claim.value:g}",
            f"{claim.median:.3f}" if claim.has_spread else NONE,
            f"{claim.least:.3f}" if claim.has_spread else NONE,
            claim.unit,
            claim.bound,
            "pass" if claim.is_kept else "FAIL",
        )
        for claim in found.claims
    ]
    note = (
        "Measured, in ms: how much more than known (99th percentile; its median and least beside it). A wrong "
        "instrument shows in the median, a busy machine above it. In turns/s: what was sustained."
    )
    show_table(table("", ("claim|", "known", "measured", "median", "least", "unit|", "allowed|", "|"), rows, note))
    for reason in found.void:
        click.echo(f"void: {reason}", err=True)
    failed = [claim.id for claim in found.claims if not claim.is_kept]
    if found.claims and not found.void and not found.is_interrupted:
        click.echo(f"failed: {', '.join(failed)}" if failed else "every claim holds")
    print_json(
        as_json,
        {"claims": [claim.as_check().as_json() for claim in found.claims], "failed": failed, "void": list(found.void)},
    )
    if found.is_interrupted:
        return INTERRUPTED
    return VOID if found.void else CHECK_FAILED if failed else 0
