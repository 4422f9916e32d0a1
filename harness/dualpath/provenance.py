"""What every result must be able to answer: which commit, host and versions, and what stood in for what."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from dualpath.core.cluster import Cluster

_PACKAGES = ("dualpath", "torch", "numpy", "pyarrow", "polars", "pyzmq", "msgspec", "xxhash")


def provenance() -> dict[str, Any]:
    """The part of run.json that is not the plan's."""
    return {
        **repository(),
        "host": host(),
        "versions": versions(),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def repository() -> dict[str, Any]:
    """Commit of the checkout this package runs from, and whether it was changed; None outside a checkout."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            result = subprocess.run(
                ["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return result.stdout.strip() if result.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    status = git("status", "--porcelain")
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def host() -> dict[str, Any]:
    """The machine, without its name."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "system": platform.system(),
    }


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def stand_ins(
    cluster: Cluster,
    filesystem: str,
    *,
    null: bool,
    answers_late: bool = False,
    network: str | None = None,
    remote: int = 0,
    has_weights: bool = False,
    device: str = "cpu",
) -> list[tuple[str, str, str]]:
    """(part, what is real, what stands in here): README's table, for this run. network: what KV goes over, None for
    shared memory; remote: nodes on other hosts; has_weights: of a checkpoint; device: cpu or cuda."""
    if null:
        how = "every command completes after a known delay" if answers_late else "every command completes at once"
        return [("engine", "processes, control messages, scheduler, recording", how)]
    beside = "what stands for collectives beside KV" if cluster.model_bytes_per_token else "KV lane only"
    paced = "bytes really move; pacing across processes enforces the rate"
    snic = "no pacing" if cluster.snic_bytes_per_s is None else f"paced to {cluster.snic_bytes_per_s / 1e6:,.0f} MB/s"
    cnic = "no pacing" if cluster.cnic_bytes_per_s is None else f"paced to {cluster.cnic_bytes_per_s / 1e6:,.0f} MB/s"
    return [
        (
            "model",
            "torch transformer, prefill and decode with paged KV",
            f"{cluster.model.name}: {'a checkpoint' if has_weights else 'random weights'}",
        ),
        (
            "engines",
            "one process each, control over ZeroMQ",
            f"{remote} nodes elsewhere" if remote else "all on one host",
        ),
        (
            "HBM",
            "sizes are limits the scheduler keeps",
            "host memory of the engine's process" if device == "cpu" else "device memory",
        ),
        ("storage", "Full Blocks in files, checksummed", f"a directory on {filesystem}"),
        ("SNIC", paced, snic),
        ("CNIC", f"{paced}; {beside}", cnic),
        ("RDMA between engines", "one-sided reads and writes", network or "shared memory of one host"),
    ]


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()
