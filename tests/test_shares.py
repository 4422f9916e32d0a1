"""What binds a simulated run: constructed worlds, and what each resource made faster would bring there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from dualpath.core.arms import ARMS
from dualpath.plan import Plan, starts_of
from dualpath.results.binding import CANDIDATES, binding
from dualpath.shares import Machine, run_in_memory, shares
from dualpath.simulate import simulated_cluster
from dualpath.trace.reader import TraceFile

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


Constants = tuple[tuple[str, float], ...]


def a_machine(arm: str, agents: int, constants: Constants) -> tuple[Machine, Plan]:
    load = plan(agents=agents, max_len=8192, constants=constants)
    cluster, profile, _ = simulated_cluster(load)
    return Machine(cluster, profile, ARMS[arm]), load


def shares_of(arm: str, agents: int, constants: Constants) -> tuple[dict[str, float], float]:
    """And the JCT, s."""
    machine, load = a_machine(arm, agents, constants)
    with TraceFile.open(load.trace) as trace:
        starts = tuple(starts_of(load, trace))
    ran = run_in_memory(machine, starts)
    return shares(machine, ran, starts), ran.turns.select(pl.col("end_ns").max()).item() / 1e9


FASTER: Mapping[str, Mapping[str, int]] = {  # constants that make a resource faster: 1 when raised, -1 when lowered
    "snic": {"snic_gb_per_s": 1, "snic_us_per_block": -1},
    "cnic": {"cnic_gb_per_s": 1},
    "dram": {"dram_gb_per_s": 1},
    "prefill": {
        "pass_ms": -1,
        "prefill_us_per_token": -1,
        "attention_us_per_context": -1,
        "attention_ns_per_pair": -1,
    },
    "decode": {"step_ms": -1, "step_us_per_request": -1, "step_ns_per_context": -1},
}
DEFAULTS = {"snic_gb_per_s": 50.0, "cnic_gb_per_s": 50.0, "dram_gb_per_s": 500.0, "snic_us_per_block": 0.0}
DEFAULTS |= {"pass_ms": 10.0, "prefill_us_per_token": 20.0, "attention_us_per_context": 0.05}
DEFAULTS |= {"attention_ns_per_pair": 0.0005, "step_ms": 10.0, "step_us_per_request": 0.0, "step_ns_per_context": 5.0}

WORLDS = [
    ("layerwise", 64, {"snic_gb_per_s": 0.5}, "snic_prefill"),
    ("dualpath", 96, {"snic_gb_per_s": 0.2}, "snic_decode"),
    ("layerwise", 96, {"cnic_gb_per_s": 0.02}, "cnic"),
    ("dualpath", 96, {"cnic_gb_per_s": 0.02}, "cnic"),
    ("dualpath", 24, {"dram_gb_per_s": 1.0}, "dram"),
    ("dualpath", 64, {"attention_us_per_context": 100.0}, "prefill"),
    ("layerwise", 64, {"prefill_us_per_token": 20000.0}, "prefill"),
    ("dualpath", 64, {"step_ns_per_context": 20000.0}, "decode"),
    ("layerwise", 64, {"step_us_per_request": 50000.0}, "decode"),
    ("dualpath", 2, {}, "latency"),
    ("layerwise", 1, {"snic_gb_per_s": 0.5}, "latency"),
    ("oracle", 24, {"snic_gb_per_s": 0.01}, "latency"),
]


@pytest.mark.parametrize(("arm", "agents", "slow", "binds"), WORLDS)
def test_what_is_made_slow_binds(arm: str, agents: int, slow: dict[str, float], binds: str) -> None:
    found, _ = shares_of(arm, agents, tuple({**DEFAULTS, **slow}.items()))
    assert list(found) == list(CANDIDATES)
    assert all(0 <= share < 1.02 for share in found.values()), found
    assert binding(found).candidate == binds, found


@pytest.mark.parametrize(("arm", "agents", "slow", "binds"), [world for world in WORLDS if world[3] != "latency"])
def test_what_binds_is_what_would_help_most_if_faster(
    arm: str, agents: int, slow: dict[str, float], binds: str
) -> None:
    constants = {**DEFAULTS, **slow}
    _, jct_s = shares_of(arm, agents, tuple(constants.items()))
    gains: dict[str, float] = {}
    for resource, knobs in FASTER.items():
        faster = {name: constants[name] * 1.25**way for name, way in knobs.items()}
        gains[resource] = jct_s / shares_of(arm, agents, tuple({**constants, **faster}.items()))[1]
    assert max(gains, key=lambda resource: gains[resource]) == binds.split("_")[0], gains


def test_the_largest_share_binds_and_a_near_one_is_named() -> None:
    none = dict.fromkeys(CANDIDATES, 0.0)
    assert binding({**none, "cnic": 0.5, "latency": 0.4})[:] == ("cnic", 0.5, None)
    assert binding({**none, "cnic": 0.5, "latency": 0.45})[:] == ("cnic", 0.5, "latency")
    assert binding({**none, "decode": 0.5, "snic_decode": 0.5}).candidate == "snic_decode", "ties: first of the list"
    assert binding({**none, "dram": 0.5}).text == "DRAM 50%"
    assert binding(none).rival is None
