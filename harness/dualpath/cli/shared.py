"""What all commands have in common: options, exit codes, how tables and JSON are printed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table as RichTable

from dualpath.report.table import Table

CHECK_FAILED, VOID, BAD_INPUT, INTERRUPTED = 1, 2, 3, 130
_PLAIN_WIDTH = 200  # of a table that goes to a file or another program

PATH = click.Path(path_type=Path)
JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object as the last line of stdout.")


def example(*lines: str) -> str:
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def show_table(found: Table) -> None:
    shown = RichTable(caption=found.note, caption_justify="left", box=None, pad_edge=False)
    for column in range(len(found.columns)):
        shown.add_column(found.heading(column), justify="left" if found.is_text(column) else "right", no_wrap=False)
    for row in found.rows:
        shown.add_row(*row)
    terminal = console()
    terminal.width = max(terminal.width, 1 if terminal.is_terminal else _PLAIN_WIDTH)
    terminal.print(shown)


def console() -> Console:
    return Console(highlight=False)


def print_json(wanted: bool, value: object) -> None:
    if wanted:
        click.echo(json.dumps(_finite(value), default=str, allow_nan=False))


def _finite(value: object) -> object:
    """Infinity is not JSON: the latency of a failed turn is the string "inf"."""
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case dict():
            return {key: _finite(entry) for key, entry in value.items()}
        case list() | tuple():
            return [_finite(entry) for entry in value]
        case _:
            return value
