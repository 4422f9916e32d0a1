"""What KV goes over, and which hosts take part: options of `replay` and `search`, and the command `worker`."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path
from typing import Any

import click

from dualpath.cli.shared import BAD_INPUT, PATH, example
from dualpath.engine.network import NetworkSettings, NixlSettings
from dualpath.engine.rdma.settings import LaneClass, RdmaSettings
from dualpath.engine.remote_host import Offer, serve_runs
from dualpath.engine.wire import TOKEN_VARIABLE, check_address, check_token
from dualpath.hosts import check_setup, engine_code

_OF_VERBS = (
    "rdma_device",
    "gid_index",
    "traffic_class",
    "service_level",
    "model_traffic_class",
    "model_service_level",
    "ack_timeout",
    "rdma_staging",
)
_KEYS = ("transport", *_OF_VERBS, "network_timeout", "listen", "remote", "wait")
_ACK_TIMEOUT = RdmaSettings().ack_timeout
_TIMEOUT_S, _WAIT_S = 30.0, 300.0


def network_options(command: Any) -> Any:
    options = (
        click.option(
            "--transport",
            type=click.Choice(["shared", "verbs", "nixl"]),
            default="shared",
            show_default=True,
            help="How KV goes between prefill and decode engines: through shared memory of this host, over RDMA "
            "(pyverbs), or over NIXL (UCX: RDMA, shared memory or TCP).",
        ),
        click.option("--rdma-device", help="RDMA device. Default: the first with an active port."),
        click.option(
            "--gid-index", type=click.IntRange(0), help="GID of the port. Default: the first with an IPv4 address."
        ),
        click.option(
            "--traffic-class", type=click.IntRange(0, 255), default=0, help="Of KV on RoCE: DSCP x 4, such as 32."
        ),
        click.option("--service-level", type=click.IntRange(0, 15), default=0, help="Of KV on InfiniBand."),
        click.option("--model-traffic-class", type=click.IntRange(0, 255), default=0, help="Of model traffic on RoCE."),
        click.option(
            "--model-service-level", type=click.IntRange(0, 15), default=0, help="Of model traffic on InfiniBand."
        ),
        click.option(
            "--ack-timeout",
            type=click.IntRange(1, 31),
            default=_ACK_TIMEOUT,
            show_default=True,
            help="RDMA resends what is not answered within 4.096 us x 2^N. Smaller on networks that lose packets.",
        ),
        click.option(
            "--rdma-staging", is_flag=True, help="Take device memory through pinned host memory, dma-buf or not."
        ),
        click.option(
            "--network-timeout",
            type=click.FloatRange(0.1, 3600),
            default=_TIMEOUT_S,
            show_default=True,
            help="Seconds a transfer may take.",
        ),
        click.option(
            "--listen", metavar="HOST:PORT", help=f"Where other hosts join, with the token in {TOKEN_VARIABLE}."
        ),
        click.option(
            "--remote",
            multiple=True,
            metavar="NODES",
            help="Nodes that other hosts run: prefill, decode, or a node's number. May be repeated.",
        ),
        click.option(
            "--wait", type=click.FloatRange(1, 86_400), default=_WAIT_S, show_default=True, help="Seconds for hosts."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def network_of(options: dict[str, Any]) -> dict[str, Any]:
    """Takes these options out, and gives what a Plan wants in their place."""
    chosen = {key: options.pop(key) for key in _KEYS}
    given = [key for key in _OF_VERBS if chosen[key] not in (None, 0, False, _ACK_TIMEOUT)]
    if given and chosen["transport"] != "verbs":
        raise click.UsageError(f"--{given[0].replace('_', '-')} goes with --transport verbs")
    if chosen["network_timeout"] != _TIMEOUT_S and chosen["transport"] == "shared":
        raise click.UsageError("--network-timeout goes with --transport verbs or nixl")
    if chosen["wait"] != _WAIT_S and chosen["listen"] is None:
        raise click.UsageError("--wait goes with --listen")
    network: NetworkSettings | None = None
    if chosen["transport"] == "verbs":
        network = RdmaSettings(
            device=chosen["rdma_device"],
            gid_index=chosen["gid_index"],
            kv=LaneClass(chosen["traffic_class"], chosen["service_level"]),
            model=LaneClass(chosen["model_traffic_class"], chosen["model_service_level"]),
            timeout_s=chosen["network_timeout"],
            ack_timeout=chosen["ack_timeout"],
            stages_device_memory=chosen["rdma_staging"],
        )
    elif chosen["transport"] == "nixl":
        network = NixlSettings(timeout_s=chosen["network_timeout"])
    token = os.environ.get(TOKEN_VARIABLE, "")
    if chosen["listen"] is not None:
        shown = "..." if token else secrets.token_hex(16)
        token = token or shown
        click.echo(
            f"waits at {chosen['listen']} for hosts; there: {TOKEN_VARIABLE}={shown} "
            f"dualpath worker {chosen['listen']}",
            err=True,
        )
    return {
        "network": network,
        "listen": chosen["listen"],
        "remote": chosen["remote"],
        "token": token,
        "wait_s": chosen["wait"],
    }


def _mount(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, str] | None:
    there, _, here = (value or "").partition("=")
    if value and not (there.startswith("/") and here.startswith("/")):
        raise click.BadParameter(f"{value!r} is not THERE=HERE, two absolute paths", context, parameter)
    return (there, here) if value else None


@click.command(
    epilog=example(
        "export DUALPATH_TOKEN=$(openssl rand -hex 16)     # the same on both hosts",
        "dualpath replay mine.parquet --cluster two.toml --arm all --transport verbs \\",
        "    --listen 10.0.0.1:7000 --remote decode -o /shared/RUNS                       # on 10.0.0.1",
        "dualpath worker 10.0.0.1:7000                                                    # on the other",
    )
)
@click.argument("address", metavar="HOST:PORT")
@click.option("--nodes", type=click.IntRange(1), default=1, show_default=True, help="How many nodes this host runs.")
@click.option(
    "--mount", metavar="THERE=HERE", callback=_mount, help="A folder of the other host that is mounted elsewhere here."
)
@click.option("--logs", type=PATH, help="Folder for the engines' logs. Default: a new one for temporary files.")
@click.option(
    "--wait", type=click.FloatRange(1, 86_400), default=60.0, show_default=True, help="Seconds without a coordinator."
)
def worker(address: str, nodes: int, mount: tuple[str, str] | None, logs: Path | None, wait: float) -> int:
    """Lend this host to a replay elsewhere, which listens at HOST:PORT: run the engines of a node of it. Goes on to the
    next run, until no coordinator has come for a while. Needs the run's token in DUALPATH_TOKEN."""
    token = os.environ.get(TOKEN_VARIABLE, "")
    check_token(token)
    directory = logs or Path(tempfile.mkdtemp(prefix="dualpath-worker-"))

    def say(line: str) -> None:
        click.echo(f"{address}: {line}", err=True)

    def place(path: str) -> str:
        there, here = mount or ("", "")
        return here + path.removeprefix(there) if mount and Path(path).is_relative_to(there) else path

    offer = Offer(check_address(address, "HOST:PORT"), token, engine_code(), nodes, place, check_setup)
    served = serve_runs(offer, directory, wait, say)
    if not served:
        say(
            f"no coordinator with this token wanted this host within {wait:g} s; check address, token and --wait, and "
            "whether it has its hosts already"
        )
    return 0 if served else BAD_INPUT
