"""Stages take the links of their hops, and are counted on them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from dualpath.cluster_file import load_cluster
from dualpath.core.hops import HOPS, Charge, Stage, charges
from dualpath.engine.block_copy import Done
from dualpath.engine.data_path import DataPath, link_of, link_rates
from dualpath.engine.meter import Meter
from dualpath.engine.pacer import Pacer

_CLUSTER = load_cluster(Path(__file__).parents[2] / "bench" / "clusters" / "cpu-1p2d.toml").cluster


def test_every_nic_has_links_of_its_own_and_dram_has_none() -> None:
    rates = link_rates(_CLUSTER)
    found = {
        (resource, at, direction): link_of(
            _CLUSTER, Charge(resource, at, at if resource == "cnic" else None, direction, "prefill")
        )
        for resource in ("snic", "cnic")
        for at in range(3)
        for direction in ("read", "write")
    }
    assert sorted(link for link in found.values() if link is not None) == list(range(len(rates)))
    for (resource, _, _), link in found.items():
        assert link is not None
        assert rates[link] == (40e6 if resource == "snic" else 320e6)
    assert link_of(_CLUSTER, Charge("dram", 1, None, "read", "decode")) is None


@pytest.mark.parametrize("stage", list(HOPS))
def test_a_stage_charges_the_bytes_it_moved_to_each_of_its_hops(stage: Stage) -> None:
    """What was moved counts, not what was asked for: or a transfer that loses a piece would look right."""
    meter = Meter()
    moved = []

    def copy() -> Done:
        moved.append(stage)
        return Done(4321)

    with Pacer.create([None] * len(link_rates(_CLUSTER))) as pacer:
        path = DataPath(_CLUSTER, pacer, meter)
        path.move(stage, "miss", 10, 2, 0, 2, copy)
    assert moved == [stage]
    counted: Counter[Charge] = Counter()
    for row in meter.rows():  # two of a charge, where the move was under way as a time bucket ended
        charge = Charge(row["resource"], row["node"], row["engine"], row["direction"], row["route"])
        counted[charge] += row["bytes"]
    assert counted == dict.fromkeys(charges(_CLUSTER, stage, "miss", 0, 2), 4321)
