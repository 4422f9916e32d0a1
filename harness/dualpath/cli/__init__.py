"""The command line: parse, call one function, print.

Exit codes: 0 done; 1 a check or gate failed; 2 the run is void; 3 bad input; 130 interrupted.
With --json the last line of stdout is one JSON object.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys

import click

from dualpath.cli.shared import BAD_INPUT, INTERRUPTED, VOID, example
from dualpath.core.errors import DualpathError, WorkerError

COMMANDS = {  # where each is
    "doctor": "machine.doctor",
    "replay": "serving.replay_command",
    "simulate": "serving.simulate_command",
    "worker": "network.worker",
    "whatif": "sweeping.whatif_command",
    "search": "searching.search_command",
    "calibrate": "machine.calibrate_command",
    "compare": "reading.compare_command",
    "gate": "gates.gate_command",
    "selfcheck": "checking.selfcheck_command",
    "report": "reading.report",
    "trace": "traces.trace",
}


class Commands(click.Group):
    """Imports a command when it is called: torch and matplotlib take seconds, and few commands need both."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(".")
        command: click.Command = getattr(importlib.import_module(f"dualpath.cli.{module}"), name)
        return command


def main() -> None:
    """Entry point: our errors become one line on stderr and an exit code. SIGTERM and SIGHUP are as Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        status = cli.main(prog_name="dualpath", standalone_mode=False)
    except WorkerError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(VOID)
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


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=example(
        "dualpath doctor",
        "dualpath replay traces/smoke.parquet --cluster bench/clusters/cpu-1p1d.toml --arm all -o RUNS",
        "dualpath report RUNS/* -o REPORT",
    ),
)
@click.version_option(package_name="dualpath")
def cli() -> None:
    """Replay multi-turn agent traces through a prefill/decode engine whose KV cache lives in storage, and measure
    which path its bytes should take."""
