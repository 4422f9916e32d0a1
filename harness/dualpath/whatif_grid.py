"""The points of a sweep: shapes x storage-NIC rates x compute-NIC rates, and the cluster at each of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from dualpath.cluster_file import parse_rate
from dualpath.core.cluster import Cluster, Nodes
from dualpath.core.errors import PlanError
from dualpath.results.points import Point

SNIC_FACTORS = (0.25, 0.5, 1.0, 2.0)
CNIC_FACTORS = (0.125, 0.5, 1.0)
RATIO_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
_MOST_POINTS = 4096

Shape = tuple[int, int]  # prefill, decode nodes


def point_at(cluster: Cluster) -> Point:
    return Point(cluster.prefill.nodes, cluster.decode.nodes, cluster.snic_bytes_per_s, cluster.cnic_bytes_per_s)


def grid(cluster: Cluster, nodes: str | None, snic: str | None, cnic: str | None) -> list[Point]:
    """What the lists say, or what lies around the cluster where one is None. Raises PlanError, ClusterError."""
    shapes = shapes_around(cluster.prefill.nodes, cluster.decode.nodes) if nodes is None else parse_shapes(nodes)
    rates = (
        _rates(cluster.cnic_bytes_per_s, cnic, CNIC_FACTORS, "--cnic"),
        _rates(cluster.snic_bytes_per_s, snic, SNIC_FACTORS, "--snic"),
    )
    num_points = len(shapes) * len(rates[0]) * len(rates[1])
    if num_points > _MOST_POINTS:
        raise PlanError(f"--nodes x --snic x --cnic are {num_points:,} points; at most {_MOST_POINTS:,}: give fewer")
    return [Point(*shape, snic_rate, cnic_rate) for shape, cnic_rate, snic_rate in product(shapes, *rates)]


def shapes_around(prefill: int, decode: int) -> list[Shape]:
    """As many nodes, shared out otherwise: P/D from a quarter of what it is to four times. Where so few nodes can be
    shared out in one way or two only, also one node more on either side."""
    total = prefill + decode
    ratios = (prefill / decode * factor for factor in RATIO_FACTORS)
    counts = {max(1, min(total - 1, round(total * ratio / (1 + ratio)))) for ratio in ratios}
    shapes = {(count, total - count) for count in counts} | {(prefill, decode)}
    if len(shapes) < 3:
        shapes |= {(prefill + 1, decode), (prefill, decode + 1)}
    return sorted(shapes, key=lambda shape: (shape[0] / shape[1], shape))


def parse_shapes(text: str) -> list[Shape]:
    """'1P5D,2P4D' -> [(1, 5), (2, 4)]. Raises PlanError."""
    shapes: list[Shape] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,6})[Pp](\d{1,6})[Dd]", part.strip())
        if match is None:
            raise PlanError(f"--nodes {part.strip()!r} is no shape; write prefill and decode nodes, such as 2P4D")
        shape = int(match[1]), int(match[2])
        if 0 in shape:
            raise PlanError(f"--nodes {part.strip()}: needs at least 1 prefill node and 1 decode node")
        shapes.append(shape)
    return list(dict.fromkeys(shapes))


def _rates(own: float | None, text: str | None, factors: Sequence[float], option: str) -> list[float | None]:
    if text is None:
        return [None] if own is None else [own * factor for factor in factors]
    return list(dict.fromkeys(parse_rate(part, option) for part in text.split(",")))


def cluster_at(cluster: Cluster, point: Point) -> Cluster:
    """Memory and what one engine computes stay. What a storage NIC reads, which the scheduler is told, follows its
    rate. Raises ClusterError for a shape that the cluster's engines cannot take."""
    constants = cluster.constants
    if point.snic_bytes_per_s is not None:
        own = cluster.snic_bytes_per_s or constants.read_tokens_per_s * cluster.model.kv_bytes
        factor = point.snic_bytes_per_s / own
        constants = replace(constants, read_tokens_per_s=constants.read_tokens_per_s * factor)
    return replace(
        cluster,
        name=point.text,
        prefill=Nodes(point.prefill_nodes, cluster.prefill.engines_per_node),
        decode=Nodes(point.decode_nodes, cluster.decode.engines_per_node),
        snic_bytes_per_s=point.snic_bytes_per_s,
        cnic_bytes_per_s=point.cnic_bytes_per_s,
        constants=constants,
    )
