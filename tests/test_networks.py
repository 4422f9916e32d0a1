"""The whole engine with KV over a network: the same tokens, the same bytes, counted on both sides."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from dualpath.engine.network import NetworkSettings, NixlSettings
from dualpath.engine.rdma.settings import LaneClass, RdmaSettings
from dualpath.plan import Outcome, Plan
from dualpath.replay import replay
from dualpath.results.run import Run

pytestmark = pytest.mark.engine
LANES = RdmaSettings(kv=LaneClass(traffic_class=32), model=LaneClass(traffic_class=184), timeout_s=60)
_LINK = ["resource", "node", "engine", "direction", "route"]
NETWORKS = [
    pytest.param(NixlSettings(), id="nixl", marks=pytest.mark.nixl),
    pytest.param(RdmaSettings(timeout_s=60), id="verbs", marks=pytest.mark.rdma),
]


def replayed(trace: Path, cluster: Path, output: Path, arm: str, network: NetworkSettings | None) -> Outcome:
    options: dict[str, Any] = {"agents": 2, "deterministic": True, "verify": True}
    plan = Plan(trace=trace, cluster=cluster, arm=arm, output=output, network=network, **options)
    return replay(plan, lambda ended, planned: None)


def hashes(directory: Path) -> dict[tuple[str, int], int]:
    turns = Run.load(directory).turns.select("trajectory", "turn", "output_hash").collect()
    return {(name, turn): value for name, turn, value in turns.rows()}


def bytes_by_link(table: Path) -> Counter[tuple[Any, ...]]:
    """Added up in Python: in the guest Polars' sums were wrong and these right, on the host both agree. The emulated
    processor (QEMU 7.2) is suspected; not proven."""
    found: Counter[tuple[Any, ...]] = Counter()
    for *link, num_bytes in pl.read_parquet(table).select([*_LINK, "bytes"]).rows():
        if link[0] != "port":  # a NIC's own count of everybody's traffic
            found[tuple(link)] += num_bytes
    return found


def cnic_bytes(counted: Counter[tuple[Any, ...]], engine: int) -> int:
    """Both directions."""
    return sum(num for (resource, _, of, _, _), num in counted.items() if (resource, of) == ("cnic", engine))


def checked(output: Path) -> list[dict[str, Any]]:
    """Block checksums and bytes per link are right; the counts of the prefill engine and the decode engine."""
    blocks = pl.read_parquet(output / "blocks.parquet")
    assert len(blocks)
    assert (blocks["checksum_written"] == blocks["checksum_read"]).all()
    counted, predicted = (bytes_by_link(output / f"{name}.parquet") for name in ("links", "predicted"))
    assert counted == predicted
    facts = json.loads((output / "run.json").read_text())
    prefill, decode = sorted(facts["network"], key=lambda each: each["engine"])
    local_bytes = 2 * prefill["copied_bytes"]  # each is a write and a read of the engine's CNIC
    assert prefill["moved_bytes"] == cnic_bytes(counted, 0) - local_bytes, "what is not local went over the network"
    assert prefill["moved_bytes"] > 0
    assert decode["moved_bytes"] == 0, "one-sided: the owner takes no part"
    assert prefill["notices_sent"] == decode["notices_heard"] > 0
    assert prefill["doorbells"] <= prefill["work_requests"]
    return [prefill, decode]


@pytest.mark.parametrize("network", NETWORKS)
def test_tokens_checksums_and_bytes_are_those_of_shared_memory(
    trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path, network: NetworkSettings
) -> None:
    cluster = cluster_file()
    shared = replayed(trace_file, cluster, tmp_path / "shared", "split", None)
    assert shared.status == "ok", shared.reasons
    for arm in ("dualpath", "split"):
        outcome = replayed(trace_file, cluster, tmp_path / arm, arm, network)
        assert outcome.status == "ok", outcome.reasons
        assert hashes(tmp_path / arm) == hashes(tmp_path / "shared")
        for counts in checked(tmp_path / arm):
            assert counts["staged_bytes"] == 0, "Layer Blocks go from where they lie to where they belong"


@pytest.mark.nixl
def test_nixl_over_tcp_moves_the_same_bytes(
    trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As between hosts without RDMA: UCX is left no shared memory."""
    monkeypatch.setenv("UCX_TLS", "tcp,self")
    outcome = replayed(trace_file, cluster_file(), tmp_path / "run", "split", NixlSettings())
    assert outcome.status == "ok", outcome.reasons
    assert all("UCX_TLS=tcp,self" in counts["device"] for counts in checked(tmp_path / "run"))


@pytest.mark.parametrize(
    "network", [pytest.param(None, id="shared"), pytest.param(LANES, id="verbs", marks=pytest.mark.rdma)]
)
def test_model_traffic_has_a_lane_of_its_own_and_changes_no_token(
    trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path, network: NetworkSettings | None
) -> None:
    bytes_per_token, layers = 3000, 2
    without = replayed(trace_file, cluster_file(), tmp_path / "without", "split", network)
    beside = cluster_file(model_bytes_per_token=bytes_per_token)
    outcome = replayed(trace_file, beside, tmp_path / "beside", "split", network)
    assert (without.status, outcome.status) == ("ok", "ok"), outcome.reasons
    assert hashes(tmp_path / "beside") == hashes(tmp_path / "without")
    rows = pl.read_parquet(tmp_path / "beside" / "collectives.parquet")
    new_tokens = Run.load(tmp_path / "beside").turns.select(pl.col("miss_tokens").sum()).collect().item()
    exact = 2 * bytes_per_token * new_tokens  # out and back
    assert exact - 2 * layers * len(rows) <= sum(rows["bytes"].to_list()) <= exact, "rounded down, layer by layer"
    assert rows["latency_ns"].min() > 0  # type: ignore[operator]
    moved = bytes_by_link(tmp_path / "beside" / "links.parquet")
    of_lane = {link: num for link, num in moved.items() if link[-1] == "model"}
    assert set(of_lane.values()) == {sum(rows["bytes"].to_list()) // 2}, "every direction of both NICs, each once"
    assert len(of_lane) == 4
    predicted = bytes_by_link(tmp_path / "beside" / "predicted.parquet")
    assert moved - Counter(of_lane) == predicted, "the hop table is KV's"


@pytest.mark.rdma
def test_memory_that_the_nic_does_not_reach_is_staged_and_the_run_says_so(
    trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    network = RdmaSettings(timeout_s=60, stages_device_memory=True)
    outcome = replayed(trace_file, cluster_file(), tmp_path / "run", "split", network)
    assert outcome.status == "ok", outcome.reasons
    prefill, _ = checked(tmp_path / "run")
    assert prefill["staged_bytes"] == prefill["moved_bytes"]
    assert "hbm/0 is STAGED through pinned host memory: asked for" in outcome.warning
