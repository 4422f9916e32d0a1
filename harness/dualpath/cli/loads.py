"""What commands that serve a trace are told in the same way: which trajectories, when they start, what work costs."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import click

from dualpath.cli.shared import JSON, PATH
from dualpath.core.arms import ARMS
from dualpath.trace.starts import FeedMode


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


def load_options(command: Any) -> Any:
    """What every command that serves a trace is told in the same way."""
    options = (
        click.option("--cluster", type=PATH, required=True, help="Cluster file (TOML); see bench/clusters/."),
        click.option(
            "--agents",
            type=click.IntRange(1, 10_000_000),
            help="How many trajectories to replay. Default: all of the trace's.",
        ),
        click.option("--gap-scale", type=float, default=0.0, show_default=True, help="Factor on recorded gaps."),
        click.option(
            "--gap-s", type=float, default=0.0, show_default=True, help="Draw gaps between turns: their mean, seconds."
        ),
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
        JSON,
    )
    for option in reversed(options):
        command = option(command)
    return click.argument("trace", type=PATH)(command)


def arrival_options(command: Any) -> Any:
    """When trajectories start."""
    options = (
        click.option(
            "--rate", type=float, help="Online: trajectories per second, Poisson. Default: all start together."
        ),
        click.option("--recorded", is_flag=True, help="Trajectories arrive when the trace says."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def profile_options(command: Any) -> Any:
    """What work costs in the simulator."""
    options = (
        click.option(
            "--profile",
            metavar="FILE|NAME",
            help="What work costs: a file of `dualpath calibrate`, or a shipped profile. Default: the cluster file's.",
        ),
        click.option(
            "--set",
            "constants",
            multiple=True,
            callback=_constants,
            metavar="NAME=VALUE",
            help="Another value for a constant of the profile or the cluster, such as pass_ms=200.",
        ),
        click.option(
            "--times",
            "factors",
            multiple=True,
            callback=_constants,
            metavar="NAME=FACTOR",
            help="A factor on such a constant, such as pass_ms=1.2.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def arms_of(arms: tuple[str, ...]) -> list[str]:
    return list(ARMS) if "all" in arms else list(dict.fromkeys(arms))


def mode_of(rate: float | None, recorded: bool) -> FeedMode:
    if rate is not None and recorded:
        raise click.UsageError("--rate and --recorded exclude each other: arrivals are Poisson or recorded")
    return "online" if rate is not None else "recorded" if recorded else "offline"
