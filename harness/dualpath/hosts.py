"""Which nodes of a run are on other hosts, and what must hold then."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import torch

from dualpath.compile_cache import source_digest
from dualpath.core.cluster import Cluster
from dualpath.core.errors import ClusterError, PlanError
from dualpath.core.model_shape import ModelShape
from dualpath.doctor import memory_bytes
from dualpath.engine.geometry import buffer_bytes
from dualpath.engine.messages import EngineSetup
from dualpath.engine.models.checkpoint_names import tensors
from dualpath.engine.processes import JoinedHost, Listening
from dualpath.engine.wire import check_address, check_token
from dualpath.plan import Plan

_CONTEXT_BYTES = 3 << 29  # of a process on a GPU, beside weights and KV: its context, kernels, graphs, activations


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
    if torch.cuda.device_count():
        _check_gpus(cluster, engines)
    else:  # host memory stands in for HBM
        need_bytes += sum(_hbm_bytes(cluster, engine) for engine in engines)
    free_bytes, _ = memory_bytes()
    if need_bytes > free_bytes:
        raise ClusterError(
            f"{cluster.name}: the memories of {len(engines)} engines here take {need_bytes / 2**30:,.1f} GiB, "
            f"this machine has {free_bytes / 2**30:,.1f} GiB free; lower prefill_buffer, decode_buffer, "
            "prefill_hbm or decode_hbm"
        )


def _check_gpus(cluster: Cluster, engines: Sequence[int]) -> None:
    """Engines take GPUs in turn, and those of one share its copy of the weights."""
    num, weights = torch.cuda.device_count(), _weight_bytes(cluster.model)
    for device in range(num):
        its = engines[device::num]
        beside = len(its) * _CONTEXT_BYTES
        kv_bytes = sum(_hbm_bytes(cluster, engine) for engine in its)
        need_bytes, has_bytes = weights + kv_bytes + beside, torch.cuda.get_device_properties(device).total_memory
        if its and need_bytes > has_bytes:
            raise ClusterError(
                f"{cluster.name}: GPU {device} has {has_bytes / 2**30:,.1f} GiB, and {len(its)} engines on it take "
                f"{need_bytes / 2**30:,.1f}: {weights / 2**30:,.1f} for the weights of {cluster.model.name}, "
                f"{kv_bytes / 2**30:,.1f} for KV, {beside / 2**30:,.1f} beside; lower prefill_hbm or decode_hbm, or "
                "take a smaller model"
            )


def _weight_bytes(shape: ModelShape) -> int:
    return sum(math.prod(sizes) for _, sizes in tensors(shape, is_tied=False)) * shape.element_bytes


def _hbm_bytes(cluster: Cluster, engine: int) -> int:
    memory = cluster.memory
    return memory.prefill_hbm_bytes if cluster.role_of(engine) == "prefill" else memory.decode_hbm_bytes


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
