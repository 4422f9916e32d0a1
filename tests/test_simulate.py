"""Simulated runs: deterministic, charged as the hop table says, decided by the engine's own scheduler."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from dualpath.core.arms import ARMS
from dualpath.core.errors import ClusterError, DualpathError, PlanError
from dualpath.plan import INTERRUPTED, Plan
from dualpath.results.run import Run
from dualpath.results.tables import TABLES
from dualpath.sim.profile import PROFILES, load_profile
from dualpath.simulate import simulate

ROOT = Path(__file__).resolve().parents[1]
COUNTER = ["resource", "node", "engine", "direction", "route"]
CLUSTERS = ("paper-ds660b-2p4d", "paper-ds27b-1p2d", "paper-qwen32b-1p2d")


def plan(output: Path, arm: str = "dualpath", cluster: str = CLUSTERS[0], agents: int = 24, **more: object) -> Plan:
    whole = Plan(
        ROOT / "traces" / "agents-32k.parquet",
        ROOT / "bench" / "clusters" / f"{cluster}.toml",
        arm,
        output,
        backend="sim",
        agents=agents,
    )
    return replace(whole, **more)  # type: ignore[arg-type] # fields of Plan


def run(whole: Plan) -> Run:
    outcome = simulate(whole, lambda done, total: None)
    assert outcome.status == "ok", outcome.reasons
    return Run.load(whole.output)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_links_carry_exactly_what_the_hop_table_says(tmp_path: Path, arm: str, cluster: str) -> None:
    """The bytes that the simulator charged, against those that a fresh scheduler's commands imply for the recorded
    events: so the decisions are the same ones, too, or the two would part."""
    found = run(plan(tmp_path / "run", arm, cluster, decisions=True, constants=(("quota_ms", 40.0),)))
    charged = found.links.group_by(COUNTER).agg(pl.col("bytes").sum()).sort(COUNTER).collect()
    predicted = pl.read_parquet(tmp_path / "run" / "predicted.parquet").filter(pl.col("bytes") > 0).sort(COUNTER)
    assert charged.cast(predicted.schema).equals(predicted)
    assert (charged.height > 0) == ARMS[arm].moves_kv
    decisions = found.decisions.collect()
    assert decisions["event"].str.contains("TurnEnded").sum() == found.turns.collect().height


def test_model_traffic_is_counted_in_its_lane_and_passes_wait_for_it(tmp_path: Path) -> None:
    text = (ROOT / "bench" / "clusters" / f"{CLUSTERS[0]}.toml").read_text()
    beside = tmp_path / f"{CLUSTERS[0]}.toml"
    bytes_per_token = 1_000_000
    beside.write_text(text.replace("[links]", f"[links]\nmodel_bytes_per_token = {bytes_per_token}"))
    without = run(plan(tmp_path / "without"))
    found = run(replace(plan(tmp_path / "beside", decisions=True), cluster=beside))
    lanes = found.links.group_by("lane", "resource", "direction").agg(pl.col("bytes").sum()).collect()
    model = lanes.filter(pl.col("lane") == "model")
    new_tokens = found.turns.select(pl.col("miss_tokens").sum()).collect().item()
    assert set(model["resource"]) == {"cnic"}
    assert model["bytes"].to_list() == [2 * new_tokens * bytes_per_token] * 2, "out and back, at both engines"
    kv = found.links.filter(pl.col("lane") == "kv").group_by(COUNTER).agg(pl.col("bytes").sum()).sort(COUNTER).collect()
    predicted = pl.read_parquet(tmp_path / "beside" / "predicted.parquet").filter(pl.col("bytes") > 0).sort(COUNTER)
    assert kv.cast(predicted.schema).equals(predicted)
    took = (pl.col("first_token_ns") - pl.col("prefill_start_ns")).mean()
    alone_ns, beside_ns = (each.turns.select(took).collect().item() for each in (without, found))
    assert beside_ns > alone_ns


@pytest.mark.parametrize("arm", ["dualpath", "split", "basic"])
def test_the_same_inputs_give_byte_identical_tables(tmp_path: Path, arm: str) -> None:
    for name in ("a", "b"):
        run(plan(tmp_path / name, arm, mode="online", rate_per_s=0.5, decisions=True))
    for table in ("turns", "links", "passes", "decisions", "predicted"):
        digests = {
            hashlib.sha256((tmp_path / name / f"{table}.parquet").read_bytes()).hexdigest() for name in ("a", "b")
        }
        assert len(digests) == 1, table
    run(plan(tmp_path / "c", arm, mode="online", rate_per_s=0.5, seed=1))
    turns = [pl.read_parquet(tmp_path / name / "turns.parquet") for name in ("a", "c")]
    assert not turns[0].equals(turns[1]), "another seed arrives at other times"


@pytest.mark.parametrize("arm", ARMS)
def test_a_turn_goes_through_its_stations_in_order(tmp_path: Path, arm: str) -> None:
    found = run(plan(tmp_path / "run", arm))
    turns = found.turns.collect()
    assert turns.schema.names() == TABLES["turns"].names
    order = ("due", "released", "scheduled", "read_start", "read_end", "prefill_start", "first_token", "prefill_end")
    for before, after in pairwise(order):
        assert (turns[f"{before}_ns"] <= turns[f"{after}_ns"]).all(), (before, after)
    several = turns.filter(pl.col("generate_tokens") > 1)
    assert (several["prefill_end_ns"] < several["second_token_ns"]).all()
    assert (several["second_token_ns"] <= several["end_ns"]).all()
    assert (turns["end_ns"] <= turns["persisted_ns"]).all()
    assert turns.filter(pl.col("generate_tokens") == 1)["second_token_ns"].null_count() == turns.height - several.height
    # The next turn of a trajectory is due when the one before has ended.
    ordered = turns.sort("trajectory", "turn")
    follows = ordered["turn"].slice(1) == ordered["turn"].slice(0, turns.height - 1) + 1
    assert (ordered["due_ns"].slice(1) == ordered["end_ns"].slice(0, turns.height - 1)).filter(follows).all()
    assert (turns["hit_tokens"] == turns["planned_hit_tokens"]).all()


def test_a_saturated_storage_nic_sets_the_pace(tmp_path: Path) -> None:
    """A slow storage NIC on one prefill node, read by one side only: the run lasts as long as its bytes take."""
    slow = (("snic_gb_per_s", 0.5), ("snic_us_per_block", 0.0))
    found = run(plan(tmp_path / "run", "layerwise", "paper-ds27b-1p1d", constants=slow))
    read = found.links.filter((pl.col("resource") == "snic") & (pl.col("direction") == "read")).collect()
    seconds = read["bytes"].sum() / 0.5e9
    jct_s = found.turns.select(pl.col("end_ns").max()).collect().item() / 1e9
    assert seconds < jct_s < 1.15 * seconds
    assert read["busy_ns"].sum() == pytest.approx(seconds * 1e9, rel=1e-3)


def test_two_sides_read_twice_as_fast(tmp_path: Path) -> None:
    slow = (("snic_gb_per_s", 0.5),)
    jct_s = {
        arm: run(plan(tmp_path / arm, arm, "paper-ds27b-1p1d", constants=slow)).turns.collect()["end_ns"].max()
        for arm in ("layerwise", "dualpath", "split")
    }
    assert jct_s["layerwise"] > 1.7 * jct_s["dualpath"]  # type: ignore[operator] # polars' max has many types
    assert jct_s["split"] <= 1.02 * jct_s["dualpath"]  # type: ignore[operator]


def test_online_turns_arrive_as_told_and_trajectories_stream(tmp_path: Path) -> None:
    found = run(plan(tmp_path / "run", agents=600, mode="online", rate_per_s=2.0))
    first = found.turns.filter(pl.col("turn") == 0).sort("due_ns").collect()
    assert first.height == 600
    assert first["due_ns"].max() / 1e9 == pytest.approx(300, rel=0.15)  # type: ignore[operator]
    assert (first["due_ns"] == first["released_ns"]).all() or first["released_ns"].min() > 0  # type: ignore[operator]


def test_an_interrupted_run_keeps_its_rows_and_is_void(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    outcome = simulate(plan(tmp_path / "run", agents=1300), interrupt)
    assert (outcome.status, outcome.reasons) == ("void", (INTERRUPTED,))
    turns = Run.load(tmp_path / "run").turns.collect()
    assert turns["status"].value_counts().height == 2
    unfinished = turns.filter(pl.col("status") == "unfinished")
    assert unfinished["persisted_ns"].null_count() == unfinished.height
    assert unfinished.height > 100


@pytest.mark.parametrize(
    ("constants", "says"),
    [
        ((("nonsense", 1.0),), "--set nonsense: no such constant"),
        ((("decode_hbm_gb", 0.5),), "decode_hbm"),
        ((("step_ms", 0.0), ("step_us_per_request", 0.0)), "must take time"),
        ((("pass_ms", -1.0),), "--set pass_ms = -1.0"),
        ((("pass_engines", 3.0),), "pass_engines = 3"),
        ((("step_engines", 5.0),), "step_engines = 5"),
        ((("snic_gb_per_s", 0.0),), "snic"),
    ],
)
def test_bad_constants_are_named_and_nothing_is_made(
    tmp_path: Path, constants: tuple[tuple[str, float], ...], says: str
) -> None:
    with pytest.raises((ClusterError, PlanError), match=re.escape(says)):
        simulate(plan(tmp_path / "run", constants=constants), lambda done, total: None)
    assert not (tmp_path / "run").exists()


def test_clusters_the_simulator_cannot_use(tmp_path: Path) -> None:
    for cluster, says in (("cpu-1p1d", "no profile"), ("nowhere", "no such cluster file")):
        with pytest.raises(DualpathError, match=says):
            simulate(plan(tmp_path / "run", cluster=cluster), lambda done, total: None)


def test_a_profile_may_be_given_beside_the_cluster_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a cluster that names none, and instead of the one that it names."""
    (tmp_path / "machine.toml").write_text((PROFILES / "ds-27b.toml").read_text())
    monkeypatch.chdir(tmp_path)
    for cluster, name in (("cpu-1p1d", "ds-27b"), ("cpu-1p1d", "machine.toml"), (CLUSTERS[0], "machine.toml")):
        output = tmp_path / f"{cluster}-{name}"
        constants = (("step_engines", 1.0),)
        more = {"scale": Fraction(1, 16), "max_len": 768, "agents": 4, "profile": name, "constants": constants}
        found = run(plan(output, cluster=cluster, **more))
        assert found.raw["profile"]["pass_ms"]["value"] == load_profile("ds-27b", Path())[0].pass_ms
    with pytest.raises(ClusterError, match="neither a shipped profile"):
        simulate(plan(tmp_path / "run", profile="nowhere.toml"), lambda done, total: None)


def test_run_json_names_every_constant_and_its_source(tmp_path: Path) -> None:
    found = run(plan(tmp_path / "run", agents=8, constants=(("pass_ms", 111.0),)))
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["profile"]["pass_ms"] == {"value": 111.0, "source": "given"}
    assert all(constant["source"] for constant in facts["profile"].values())
    assert facts["code"]
    assert found.manifest.backend == "sim"


def test_lengths_are_multiplied_then_cut(tmp_path: Path) -> None:
    """The paper's length scaling: longer appends, fewer turns, the same maximum."""
    for name, factor in (("one", Fraction(1)), ("three", Fraction(3))):
        run(plan(tmp_path / name, agents=40, append_factor=factor, max_len=32768))
    one, three = (pl.read_parquet(tmp_path / name / "turns.parquet") for name in ("one", "three"))
    assert three.height < 0.7 * one.height
    longest = (pl.col("hit_tokens") + pl.col("miss_tokens") + pl.col("generate_tokens")).max()
    assert three.select(longest).item() <= 32768
