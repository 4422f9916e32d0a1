"""Which nodes of a run are on other hosts, and what must hold then."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from dualpath.compile_cache import source_digest
from dualpath.core.cluster import Cluster
from dualpath.core.errors import ClusterError, PlanError
from dualpath.doctor import memory_bytes
from dualpath.engine.geometry import buffer_bytes
from dualpath.engine.messages import EngineSetup
from dualpath.engine.processes import JoinedHost, Listening
from dualpath.engine.wire import check_address, check_token
from dualpath.plan import Plan


def engine_code() -> str:
    """Digest of the sources that engines of all hosts must have in common."""
    return source_digest("core", "engine")


def remote_nodes(plan: Plan, cluster: Cluster) -> list[int]:
    """Numbers of the nodes that other hosts run: prefill nodes first, then decode nodes. Raises PlanError."""
    num_prefill = cluster.prefill.nodes
    by_role = {"prefill": range(num_prefill), "decode": range(num_prefill, cluster.num_nodes)}
    nodes: set[int] = set()
    for name in plan.remote:
        if name in by_role:
            nodes.update(by_role[name])
        elif name.isdecimal() and int(name) < cluster.num_nodes:
            nodes.add(int(name))
        else:
            raise PlanError(
                f"--remote {name!r} is neither prefill, decode nor the number of a node; {cluster.name} has nodes 0 to "
                f"{cluster.num_nodes - 1}, prefill nodes first"
            )
    if nodes:
        _check(plan, cluster)
    return sorted(nodes)


def _check(plan: Plan, cluster: Cluster) -> None:
    if plan.listen is None:
        raise PlanError("--remote needs --listen HOST:PORT, where other hosts find this one")
    if plan.network is None and not plan.null:
        raise PlanError("--remote needs --transport verbs or nixl: hosts share no memory")
    if cluster.cnic_bytes_per_s is not None:
        raise PlanError(
            f'--remote needs cnic = "native" in {plan.cluster}: links are paced through memory that their users share, '
            "and a decode engine's compute NIC has users on both hosts"
        )


def listening(plan: Plan) -> Listening | None:
    """Raises PlanError."""
    if plan.listen is None:
        return None
    if not plan.remote:
        raise PlanError(
            "--listen is for hosts that join; say with --remote which nodes they run, such as --remote decode"
        )
    check_token(plan.token)
    return Listening(check_address(plan.listen, "--listen"), plan.token, engine_code(), plan.wait_s)


def check_memory(cluster: Cluster, engines: Sequence[int]) -> None:
    """Refuse at once what would end with the kernel killing some process. engines: those of this host. Raises
    ClusterError."""
    need_bytes = sum(buffer_bytes(cluster, engine) for engine in engines)
    if not Path("/proc/driver/nvidia").exists():  # host memory stands in for HBM
        hbm_bytes = {"prefill": cluster.memory.prefill_hbm_bytes, "decode": cluster.memory.decode_hbm_bytes}
        need_bytes += sum(hbm_bytes[cluster.role_of(engine)] for engine in engines)
    free_bytes, _ = memory_bytes()
    if need_bytes > free_bytes:
        raise ClusterError(
            f"{cluster.name}: the memories of {len(engines)} engines here take {need_bytes / 2**30:,.1f} GiB, "
            f"this machine has {free_bytes / 2**30:,.1f} GiB free; lower prefill_buffer, decode_buffer, "
            "prefill_hbm or decode_hbm"
        )


def check_setup(setup: EngineSetup, engines: list[int]) -> None:
    """The same for engines that another host wants started here."""
    if not setup.null:
        check_memory(msgspec.msgpack.decode(setup.cluster, type=Cluster), engines)


def as_facts(hosts: list[JoinedHost]) -> list[dict[str, object]]:
    """For run.json. Times of events on another host are off by at most the clocks' error and drift."""
    return [
        {
            "name": host.name,
            "engines": host.engines,
            "clock_offset_ns": host.offset_ns,
            "clock_error_ns": host.error_ns,
            "clock_drift_ns": host.last_offset_ns - host.offset_ns,
            "clock_drift_error_ns": host.error_ns + host.last_error_ns,
        }
        for host in hosts
    ]
