"""What this machine offers to a run, and what to do where something is missing. Never raises, changes nothing.

Each finding says what it means for a run. `ok` False is not an error: the run works with a stand-in, and says so.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import importlib
import importlib.util
import os
import platform
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

from dualpath.core.errors import StoreError
from dualpath.engine.direct_io import DirectFile, aligned_buffer, filesystem_of
from dualpath.engine.pacer import wait_until

_IO_URING_SETUP = 425  # the same number on every architecture
_IO_URING_PARAMS_BYTES = 120
_RATE_CHUNK_BYTES = 4 << 20
_RATE_MAX_BYTES = 128 << 20
_RATE_BUDGET_NS = 300_000_000
_ENOUGH_MEMORY_BYTES = 4 << 30
_ENOUGH_MEMLOCK_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about this machine: its value, whether a run can use it fully, and what that means."""

    name: str
    value: str
    ok: bool
    hint: str


def probe(directory: Path | str) -> list[Finding]:
    """Looks at the machine and at `directory`, where the block store would be (or its nearest existing parent).
    Takes about two seconds, writes one temporary file there and removes it."""
    place = Path(directory).absolute()
    while not place.is_dir() and place != place.parent:
        place = place.parent
    probes: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("python", _python),
        ("torch", _torch),
        ("cores", _cores),
        ("memory", _memory),
        ("memlock", _memlock),
        ("/dev/shm", _shared_memory),
        ("file system", partial(_file_system, place)),
        ("storage rate", partial(_storage_rate, place)),
        ("io_uring", _io_uring),
        ("rdma", rdma),
        ("nixl", _nixl),
        ("timer", _timer),
    ]
    findings: list[Finding] = []
    for name, look in probes:
        try:
            findings.extend(look())
        except Exception as error:  # a diagnosis must not fail on the machine it is to diagnose
            findings.append(
                Finding(name, f"could not tell: {error or type(error).__name__}", False, "a run may still work")
            )
    return findings


def rdma(
    devices_at: Path = Path("/sys/class/infiniband"),
    nodes_at: Path = Path("/dev/infiniband"),
    memlock_bytes: int | None = None,
) -> list[Finding]:
    """RDMA devices, and everything that is missing to use them. Imports no RDMA module."""
    devices = sorted(devices_at.iterdir()) if devices_at.is_dir() else []
    described = []
    for device in devices:
        ports = [_port(port) for port in sorted(device.glob("ports/*"))]
        described.append(f"{device.name} ({'; '.join(ports) or 'no port'})")
    missing = []
    if not devices:
        missing.append(
            "a device (a NIC with its driver, or soft RDMA: modprobe rdma_rxe; rdma link add rxe0 type rxe netdev ...)"
        )
    elif not any("active" in text for text in described):
        missing.append("an active port (check the cable, or ip link set up)")
    if importlib.util.find_spec("pyverbs") is None:
        missing.append("the module pyverbs (apt install python3-pyverbs, for the distribution's own Python)")
    if ctypes.util.find_library("ibverbs") is None:
        missing.append("libibverbs (apt install rdma-core ibverbs-providers)")
    nodes = sorted(nodes_at.glob("uverbs*")) if nodes_at.is_dir() else []
    if devices and not nodes:
        missing.append(f"{nodes_at}/uverbs* (modprobe ib_uverbs)")
    elif nodes and not any(os.access(node, os.R_OK | os.W_OK) for node in nodes):
        missing.append(f"permission to open {nodes[0]} (add a udev rule, or run as its group)")
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] if memlock_bytes is None else memlock_bytes
    if limit != resource.RLIM_INFINITY and limit < _ENOUGH_MEMLOCK_BYTES and os.geteuid() != 0:
        missing.append(f"memlock above {_in_units(limit)} (ulimit -l unlimited)")
    hint = (
        f"shared memory stands in for RDMA between processes of one host; missing: {'; '.join(missing)}"
        if missing
        else "KV can go over it: dualpath replay --transport verbs"
    )
    return [Finding("rdma", ", ".join(described) or "no device", not missing, hint)]


def _port(port: Path) -> str:
    """State, link layer, rate and GIDs, as far as the kernel tells."""

    def read(name: str) -> str:
        path = port / name
        return path.read_text().strip() if path.exists() else ""

    words = [read("state").split(":")[-1].strip().lower(), read("link_layer"), read("rate")]
    gids = [(int(path.name), path.read_text().strip()) for path in port.glob("gids/*")]
    used = [f"{index} {gid}" for index, gid in sorted(gids) if gid.strip("0:")]
    return ", ".join([*filter(None, words), *([f"GIDs {', '.join(used)}"] if used else [])])


def _nixl() -> list[Finding]:
    """Found, not loaded: it takes a second and starts threads."""
    try:
        version = metadata.version("nixl-cu12")
    except metadata.PackageNotFoundError:
        return [Finding("nixl", "not installed", False, "only for --transport nixl: pip install nixl-cu12")]
    return [Finding("nixl", version, True, "KV can go over UCX: RDMA, shared memory or TCP (--transport nixl)")]


def _python() -> list[Finding]:
    ok = sys.version_info >= (3, 11)
    hint = "supported" if ok else "Python 3.11 or newer is needed"
    return [Finding("python", f"{platform.python_version()} ({sys.executable})", ok, hint)]


def _torch() -> list[Finding]:
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        return [
            Finding("torch", f"cannot be imported: {error}", False, "replay needs it (make setup); simulate does not")
        ]
    findings = [Finding("torch", str(torch.__version__), True, "the engine's models can run")]
    names = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    hint = "engines compute on the GPU" if names else "engines compute on the CPU; use the cpu-* presets"
    findings.append(Finding("cuda", ", ".join(names) or "no device", bool(names), hint))
    return findings


def _cores() -> list[Finding]:
    cores = len(os.sched_getaffinity(0))
    hint = (
        "enough for the cpu-* clusters"
        if cores >= 2
        else "2 or more are needed: on one core engines steal each other's time and utilisation says nothing"
    )
    return [Finding("cores", str(cores), cores >= 2, hint)]


def memory_bytes() -> tuple[int, int]:
    """This machine's memory: (available, total)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available, total = (int(fields[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    return available, total


def _memory() -> list[Finding]:
    available, total = memory_bytes()
    ok = available >= _ENOUGH_MEMORY_BYTES
    hint = "PE and DE buffers, HBM stand-ins and models must fit" + (
        "" if ok else f"; below {_in_units(_ENOUGH_MEMORY_BYTES)}: lower the buffer sizes of the cluster file"
    )
    return [Finding("memory", f"{_in_units(available)} available of {_in_units(total)}", ok, hint)]


def _memlock() -> list[Finding]:
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    is_endless = limit == resource.RLIM_INFINITY
    ok = is_endless or limit >= _ENOUGH_MEMLOCK_BYTES
    hint = "RDMA can register buffers" if ok else "matters for RDMA only: ulimit -l unlimited (root is exempt)"
    return [Finding("memlock", "unlimited" if is_endless else _in_units(limit), ok, hint)]


def _shared_memory() -> list[Finding]:
    usage = shutil.disk_usage("/dev/shm")
    ok = usage.free >= 64 << 20
    hint = "engines share buffers by anonymous memory files, which count as memory; /dev/shm itself may be small"
    findings = [Finding("/dev/shm", f"{_in_units(usage.free)} free of {_in_units(usage.total)}", ok, hint)]
    setting = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
    if setting.exists():
        chosen = setting.read_text().split("[")[-1].split("]")[0]
        ok = chosen not in ("never", "deny")
        hint = (
            "shared buffers can have huge pages"
            if ok
            else f"shared buffers have 4 KiB pages, which can slow direct reads; echo advise > {setting} allows more"
        )
        findings.append(Finding("shared huge pages", chosen, ok, hint))
    return findings


def _file_system(place: Path) -> list[Finding]:
    kind = filesystem_of(place)
    in_memory = kind in ("tmpfs", "ramfs", "devtmpfs")
    usage = shutil.disk_usage(place)
    return [
        Finding(
            "file system",
            f"{kind} at {place}, {_in_units(usage.free)} free",
            not in_memory,
            "memory stands in for storage here; choose a directory on a disk for real reads"
            if in_memory
            else "the block store is on a real file system",
        )
    ]


def _storage_rate(place: Path) -> list[Finding]:
    """Whether the directory can be written, takes O_DIRECT, and how fast it is."""
    block = aligned_buffer(_RATE_CHUNK_BYTES)
    block[:] = os.urandom(_RATE_CHUNK_BYTES)
    try:
        with (
            tempfile.TemporaryDirectory(prefix=".dualpath-doctor-", dir=place) as scratch,
            DirectFile(Path(scratch) / "rate", "write") as file,
        ):
            is_direct, reason = file.direct, file.reason
            written, write_ns = _move(partial(file.write_from, block), _RATE_MAX_BYTES)
            read, read_ns = _move(partial(file.read_into, block), written)
    except (OSError, StoreError) as error:
        return [
            Finding(
                "storage rate", f"cannot write: {error}", False, "no store can be made here: choose another directory"
            )
        ]
    hint = (
        "storage reads bypass the page cache"
        if is_direct
        else f"{reason}: reads may come from memory, and the run says so"
    )
    rates = f"read {read / read_ns * 1e3:,.0f} MB/s, write {written / write_ns * 1e3:,.0f} MB/s"
    return [
        Finding("O_DIRECT", "yes" if is_direct else "no", is_direct, hint),
        Finding(
            "storage rate",
            rates,
            True,
            f"one thread, {_in_units(_RATE_CHUNK_BYTES)} each, {_in_units(read)}: keep the sum of all paced SNIC rates "
            "of a cluster file well below it, or the disk is the bottleneck and not the NIC",
        ),
    ]


def _move(step: Callable[[int], None], max_bytes: int) -> tuple[int, int]:
    """Repeats a transfer at growing offsets until the bytes or the time are used up: (bytes, ns)."""
    started, done = time.monotonic_ns(), 0
    while done < max_bytes and time.monotonic_ns() - started < _RATE_BUDGET_NS:
        step(done)
        done += _RATE_CHUNK_BYTES
    return done, max(time.monotonic_ns() - started, 1)


def _io_uring() -> list[Finding]:
    libc = ctypes.CDLL(None, use_errno=True)
    params = ctypes.create_string_buffer(_IO_URING_PARAMS_BYTES)
    fd = libc.syscall(ctypes.c_long(_IO_URING_SETUP), ctypes.c_uint(1), params)
    if fd >= 0:
        os.close(fd)
        return [Finding("io_uring", "available", True, "not needed: the store reads with preadv from several threads")]
    number = ctypes.get_errno()
    name = errno.errorcode.get(number, str(number))
    why = {"ENOSYS": "the kernel lacks it", "EPERM": "switched off (kernel.io_uring_disabled, or a seccomp filter)"}
    meaning = "no loss: the store reads with preadv from several threads"
    return [Finding("io_uring", f"not available: {why.get(name, name)}", False, meaning)]


def _timer() -> list[Finding]:
    late_ns = []
    for _ in range(50):
        end_ns = time.monotonic_ns() + 1_000_000
        wait_until(end_ns)
        late_ns.append(time.monotonic_ns() - end_ns)
    middle = statistics.median(late_ns)
    ok = middle < 200_000
    hint = "paced links wake in time" if ok else "paced links wake late: close other programs, or lower the link rates"
    value = f"1 ms sleeps end {middle / 1e3:.0f} us late (median), {max(late_ns) / 1e3:.0f} us at most"
    return [Finding("timer", value, ok, hint)]


def _in_units(num_bytes: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} B"
