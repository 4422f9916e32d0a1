"""Opening a device's port: which one, which of its GIDs, and why not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualpath.engine.rdma.settings import PortFacts, RdmaError, RdmaSettings, is_ipv4
from dualpath.engine.rdma.verbs import load_pyverbs

_READS = 16
_SYSFS = Path("/sys/class/infiniband")


@dataclass(frozen=True, slots=True)
class Port:
    """An open device and the port that is used of it."""

    settings: RdmaSettings
    verbs: Any  # the package pyverbs
    enums: Any
    failure: type[Exception]  # of every call of pyverbs
    context: Any
    facts: PortFacts
    gid_index: int


def open_port(settings: RdmaSettings) -> Port:
    """Raises RdmaError."""
    verbs, enums = load_pyverbs()
    failure: type[Exception] = verbs.pyverbs_error.PyverbsError
    context = _open(settings, verbs, enums, failure)
    try:
        facts, gid_index = _facts(settings, enums, failure, context)
    except RdmaError:
        context.close()
        raise
    return Port(settings, verbs, enums, failure, context, facts, gid_index)


def _open(settings: RdmaSettings, verbs: Any, enums: Any, failure: type[Exception]) -> Any:
    wanted = settings.device
    try:
        names = [device.name.decode() for device in verbs.device.get_device_list()]
    except failure:  # "Failed to get devices list": the kernel knows no RDMA
        names = []
    if not names:
        raise RdmaError(
            "no RDMA device; load the NIC's driver, or make a software one: modprobe rdma_rxe; rdma link add rxe0 "
            "type rxe netdev NETDEV; or run with --transport shared or nixl"
        )
    if wanted is not None and wanted not in names:
        raise RdmaError(f"no RDMA device {wanted!r}; there are {', '.join(names)}; choose one with --rdma-device")
    failed: list[str] = []
    for name in [wanted] if wanted else names:
        try:
            context = verbs.device.Context(name=name)
            state = context.query_port(settings.port).state
        except failure as error:
            failed.append(f"{name}: {error}")
            continue
        if state == enums.IBV_PORT_ACTIVE:
            return context
        failed.append(f"{name}: port {settings.port} is not active")
        context.close()
    raise RdmaError(
        f"no RDMA device that can be used: {'; '.join(failed)}; bring the link up, or choose another device with "
        "--rdma-device"
    )


def _facts(settings: RdmaSettings, enums: Any, failure: type[Exception], context: Any) -> tuple[PortFacts, int]:
    port, name = context.query_port(settings.port), _text(context.name)
    is_ethernet = port.link_layer == enums.IBV_LINK_LAYER_ETHERNET
    gids = [_gid(context, settings.port, index, failure) for index in range(port.gid_tbl_len)]
    index = settings.gid_index
    if index is not None and not (index < len(gids) and gids[index]):
        used = ", ".join(f"{number}: {gid}" for number, gid in enumerate(gids) if gid)
        raise RdmaError(f"{name}: no GID at index {index}; there are {used}; see --gid-index")
    if index is None:
        index = _best([(gid, gid_type(name, settings.port, number)) for number, gid in enumerate(gids)])
    reads = min(_READS, context.query_device().max_qp_rd_atom)
    gid, kind = (gids[index], gid_type(name, settings.port, index)) if gids else ("", "")
    return PortFacts(gid, kind, port.lid, is_ethernet, port.active_mtu, reads, name), index


def _best(gids: list[tuple[str, str]]) -> int:
    """Index of the GID to use where none is asked for. gids: (GID or "", type) by index."""
    mapped = [number for number, (gid, _) in enumerate(gids) if is_ipv4(gid)]
    routable = [number for number in mapped if gids[number][1] == "RoCE v2"]
    used = [number for number, (gid, _) in enumerate(gids) if gid]
    return (routable or mapped or used or [0])[0]


def _gid(context: Any, port: int, index: int, failure: type[Exception]) -> str:
    """Empty where the table has none."""
    try:
        gid = str(context.query_gid(port, index)).strip().lower()
    except failure:
        return ""
    return "" if not gid.strip("0:") else gid


def gid_type(device: str, port: int, index: int, sysfs: Path = _SYSFS) -> str:
    """ "RoCE v2", "IB/RoCE v1", or empty where the kernel does not say."""
    try:
        return (sysfs / device / "ports" / str(port) / "gid_attrs" / "types" / str(index)).read_text().strip()
    except OSError:  # EINVAL for a GID that is not set
        return ""


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
