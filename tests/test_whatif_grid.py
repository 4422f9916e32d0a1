"""Where a sweep looks: points around a cluster, and the cluster at each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from dualpath.core.known_models import MODELS
from dualpath.plan import Plan
from dualpath.results.points import Point
from dualpath.simulate import simulated_cluster
from dualpath.whatif_grid import cluster_at, grid, parse_shapes, point_at, shapes_around

ROOT = Path(__file__).resolve().parents[1]


def plan(shipped: str = "paper-ds27b-1p1d", **more: object) -> Plan:
    whole = Plan(
        ROOT / "traces" / "agents-32k.parquet",
        ROOT / "bench" / "clusters" / f"{shipped}.toml",
        "layerwise",
        Path(),
        backend="sim",
    )
    return replace(whole, **more)  # type: ignore[arg-type] # fields of Plan


def test_points_lie_around_the_cluster() -> None:
    cluster, _, _ = simulated_cluster(plan("paper-ds660b-2p4d"))
    points = grid(cluster, None, None, None)
    assert point_at(cluster) in points
    assert len(points) == len(set(points)) == 4 * 4 * 3
    assert {point.prefill_nodes + point.decode_nodes for point in points} == {6}


@pytest.mark.parametrize(
    ("given", "shapes"),
    [
        ((2, 4), [(1, 5), (2, 4), (3, 3), (4, 2)]),
        ((1, 1), [(1, 2), (1, 1), (2, 1)]),
        ((1, 2), [(1, 3), (1, 2), (2, 2), (2, 1)]),
        ((48, 96), [(16, 128), (29, 115), (48, 96), (72, 72), (96, 48)]),
        ((1, 40), [(1, 40), (2, 39), (4, 37)]),
    ],
)
def test_shapes_share_out_the_same_nodes(given: tuple[int, int], shapes: list[tuple[int, int]]) -> None:
    assert shapes_around(*given) == shapes


def test_the_cluster_at_a_point() -> None:
    cluster, _, _ = simulated_cluster(plan("paper-ds660b-2p4d"))
    half = (cluster.snic_bytes_per_s or 0) / 2
    found = cluster_at(cluster, Point(3, 5, half, 1e9))
    assert (found.num_prefill, found.num_decode) == (24, 40)
    assert (found.snic_bytes_per_s, found.cnic_bytes_per_s, found.memory) == (half, 1e9, cluster.memory)
    assert found.constants.alpha_tokens == pytest.approx(cluster.constants.alpha_tokens / 2, abs=1)
    same = cluster_at(cluster, point_at(cluster))
    assert replace(same, name=cluster.name) == cluster
    assert parse_shapes("1p5d, 2P4D,1P5D") == [(1, 5), (2, 4)]


def test_another_model_brings_its_profile_and_leaves_the_machines() -> None:
    cluster, profile, constants = simulated_cluster(plan(model="qwen2.5-32b"))
    own, own_profile, _ = simulated_cluster(plan())
    assert cluster.model == MODELS["qwen2.5-32b"]
    assert profile != own_profile
    assert constants["pass_ms"].value == profile.pass_ms
    assert (cluster.memory, cluster.snic_bytes_per_s) == (own.memory, own.snic_bytes_per_s)
    read_bytes = [found.constants.read_tokens_per_s * found.model.kv_bytes for found in (cluster, own)]
    assert read_bytes[0] == pytest.approx(read_bytes[1])
    assert cluster.constants.attention_ns_per_pair == profile.attention_ns_per_pair
