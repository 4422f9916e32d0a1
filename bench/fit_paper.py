"""Fit what the paper does not state, on the declared fit set only: python bench/fit_paper.py MODEL [--minutes 10]

Fit set: the Oracle cells of Fig 7 and the Oracle curve of Fig 10 (this program); the Basic cell at 48K and the middle
agent count (2,048, 2,048, 256), which fixes the storage NIC's rate and time per block together for DS 27B and Qwen,
and how much a PE of DS 660B holds (`--basic` prints what it gives); the finishing curve of Fig 15 for the shape of the
trace. One set of constants per model; nothing is chosen per cell.

Prints the constants, to be copied into harness/dualpath/sim/profiles/ and bench/clusters/, and each cell's error. Uses
all cores, one candidate each (CMA-ES over logarithms; `pip install cmaes`). Every residual is an error over the
tolerance below; every constant is pulled to where public facts put it, in widths of its own.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from dualpath.core.arms import ARMS
from dualpath.core.errors import DualpathError
from dualpath.core.feed import Feed
from dualpath.core.trajectory import Trajectory
from dualpath.plan import Plan
from dualpath.sim.simulator import Rows, Simulator, Sinks
from dualpath.simulate import simulated_cluster
from dualpath.trace import starts
from dualpath.trace.reader import TraceFile
from dualpath.trace.select import select

ROOT = Path(__file__).resolve().parents[1]
PAPER = ROOT / "reports" / "paper"
JCT, TTFT, TTST, TPOT = 0.05, 0.10, 0.12, 0.05  # tolerances
MOST = 6.0  # tolerances that one cell may count for
ONLINE_S = {"DS 660B": 3500, "DS 27B": 2000}
RATES = {"DS 660B": (0.1, 0.2, 0.3, 0.4, 0.45, 0.5), "DS 27B": (0.25, 0.4, 0.5, 0.6, 0.75)}

Constants = tuple[tuple[str, float], ...]


class Free(NamedTuple):
    """A constant that is fitted: where it is expected, and the standard deviation of its logarithm."""

    centre: float
    width: float


class Model(NamedTuple):
    cluster: str
    free: dict[str, Free]
    fixed: Constants


_LINEAR = "prefill_us_per_token"
MODELS = {
    "DS 660B": Model(
        "paper-ds660b-2p4d",
        {
            "pass_ms": Free(280, 0.5),
            _LINEAR: Free(150, 0.25),  # 74 GFLOP in experts, 35 in sparse attention, at half of peak
            "attention_us_per_context": Free(2.2, 0.7),
            "attention_ns_per_pair": Free(1.8, 0.25),  # the indexer's 1 MFLOP per pair
            "step_ms": Free(28.3, 0.1),
            "step_us_per_request": Free(500, 0.8),
            "step_ns_per_context": Free(8, 0.7),
            "handoff_ms": Free(60, 0.5),
            "request_ms": Free(190, 0.7),
            "decode_hbm_gb": Free(60, 0.3),
        },
        (),
    ),
    "DS 27B": Model(
        "paper-ds27b-1p1d",
        {
            "pass_ms": Free(150, 0.7),
            _LINEAR: Free(30, 0.6),
            "attention_us_per_context": Free(0.25, 1.0),
            "attention_ns_per_pair": Free(0.5, 0.5),
            "step_ms": Free(8.8, 0.1),
            "step_us_per_request": Free(90, 1.0),
            "step_ns_per_context": Free(1.5, 0.7),
            "handoff_ms": Free(25, 0.5),
            "request_ms": Free(100, 0.7),
            "decode_hbm_gb": Free(60, 0.3),
        },
        (),
    ),
    "Qwen 32B": Model(
        "paper-qwen32b-1p2d",
        {
            "pass_ms": Free(19, 0.5),
            "attention_us_per_context": Free(0.06, 0.7),
            "attention_ns_per_pair": Free(1.3, 0.4),
            "step_ms": Free(22, 0.2),
            "step_us_per_request": Free(300, 1.0),
            "step_ns_per_context": Free(100, 0.2),  # 262 KB at 2.6 TB/s
            "decode_hbm_gb": Free(90, 0.3),
        },
        ((_LINEAR, 131.0), ("handoff_ms", 25.0), ("request_ms", 100.0)),
    ),
}


class Cell(NamedTuple):
    """One measurement of the paper: offline a JCT, online TTFT, TTST and TPOT."""

    trace_set: str
    agents: int
    rate_per_s: float | None
    theirs: tuple[float, ...]
    tolerances: tuple[float, ...]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=list(MODELS))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--online-set", choices=("48k", "64k"), default="64k", help="the paper does not state it")
    parser.add_argument("--basic", action="store_true", help="only simulate the Basic cell of the fit set")
    arguments = parser.parse_args()
    model = MODELS[arguments.model]
    if arguments.basic:
        agents = 256 if arguments.model == "Qwen 32B" else 2048
        print(f"Basic, 48K, {agents} agents: {simulated(model, '48k', agents, None, (), 'basic')[0]:.0f} s")
        return 0
    fit(arguments.model, model, arguments.minutes * 60, arguments.online_set)
    return 0


def fit(name: str, model: Model, seconds: float, online_set: str) -> None:
    from cmaes import CMA  # optional, and only here

    names = list(model.free)
    centre = np.log([free.centre for free in model.free.values()])
    widths = np.array([free.width for free in model.free.values()])
    todo = cells(name, online_set)
    scale = np.minimum(widths, 0.5)
    start = (np.log([shipped(model)[name] for name in names]) - centre) / scale
    optimizer = CMA(mean=start, sigma=0.25, seed=1, population_size=max(12, os.cpu_count() or 1))
    best_score, best = math.inf, model.fixed
    ends = time.monotonic() + seconds
    with get_context("fork").Pool(os.cpu_count()) as pool:
        while time.monotonic() < ends:
            asked = [optimizer.ask() for _ in range(optimizer.population_size)]
            tried = [(*model.fixed, *zip(names, np.exp(centre + scale * x).tolist(), strict=True)) for x in asked]
            errors = pool.starmap(residuals, [(model, todo, constants) for constants in tried], chunksize=1)
            scores = [
                float((np.minimum(np.abs(e), MOST) ** 2).sum() + ((scale * x / widths) ** 2).sum())
                for e, x in zip(errors, asked, strict=True)
            ]
            optimizer.tell(list(zip(asked, scores, strict=True)))
            if min(scores) < best_score:
                best_score, best = min((s, c) for s, c in zip(scores, tried, strict=True))
            print(f"generation {optimizer.generation}: best {best_score:.1f}", file=sys.stderr, flush=True)
    print(json.dumps({key: float(f"{value:.4g}") for key, value in best}))
    for cell, found in zip(todo, _by_cell(todo, residuals(model, todo, best)), strict=True):
        where = f"{cell.agents} agents" if cell.rate_per_s is None else f"{cell.rate_per_s} agents/s"
        off = ", ".join(f"{math.exp(e * t) - 1:+.0%}" for e, t in zip(found, cell.tolerances, strict=True))
        print(f"{cell.trace_set} {where}: {off}")


def shipped(model: Model) -> dict[str, float]:
    """The constants that stand in the profile and the cluster file: the search starts there."""
    cluster, profile, _ = simulated_cluster(_plan(model, "oracle", ()))
    return {**asdict(profile), "decode_hbm_gb": cluster.memory.decode_hbm_bytes / 1e9}


def cells(name: str, online_set: str) -> list[Cell]:
    found: list[Cell] = []
    for row in _rows("fig7_offline_jct"):
        if row["model"] == name and row["system"] == "oracle":
            found.append(Cell(row["max_len"].lower(), int(row["agents"]), None, (float(row["jct_s"]),), (JCT,)))
    for row in _rows("fig10_online_latency"):
        rate = float(row["agents_per_s"])
        if row["model"] == name and row["system"] == "oracle" and rate in RATES[name]:
            theirs = float(row["ttft_s"]), float(row["ttst_s"]), float(row["tpot_s"])
            found.append(Cell(online_set, int(rate * ONLINE_S[name]), rate, theirs, (TTFT, TTST, TPOT)))
    return found


def residuals(model: Model, todo: Sequence[Cell], constants: Constants) -> list[float]:
    """Logarithms of ours over theirs, in tolerances."""
    found: list[float] = []
    for cell in todo:
        ours: tuple[float, ...]
        jct_s, rows = simulated(model, cell.trace_set, cell.agents, cell.rate_per_s, constants, "oracle")
        ours = (jct_s,) if cell.rate_per_s is None else _latencies(rows, cell.agents / cell.rate_per_s)
        found += [math.log(a / b) / t for a, b, t in zip(ours, cell.theirs, cell.tolerances, strict=True)]
    return found


def simulated(
    model: Model, trace_set: str, agents: int, rate_per_s: float | None, constants: Constants, arm: str
) -> tuple[float, Rows]:
    """JCT and, online, the finished turns. Nothing is written."""
    cluster, profile, _ = simulated_cluster(_plan(model, arm, constants))
    families = _families(trace_set, agents)
    kept: list[Rows] = []

    def keep(rows: Rows, feed: Feed) -> None:
        if rate_per_s is not None:
            kept.append(rows.copy())

    arriving = starts.offline(families) if rate_per_s is None else starts.online(families, rate_per_s, 0)
    feed = Feed(arriving, block_tokens=cluster.block_tokens)
    simulator = Simulator(cluster, ARMS[arm], profile, feed, Sinks(keep, lambda rows: None, None))
    while simulator.run_slice():
        pass
    jct_s = float(simulator.parts.counts[0].last_end_ns) / 1e9
    return jct_s, np.concatenate(kept) if kept else np.zeros(0, simulator.parts.turn_rows.dtype)


def _plan(model: Model, arm: str, constants: Constants) -> Plan:
    cluster_path = ROOT / "bench" / "clusters" / f"{model.cluster}.toml"
    return Plan(Path(), cluster_path, arm, Path(), backend="sim", constants=constants)


@cache
def _families(trace_set: str, agents: int) -> list[list[Trajectory]]:
    with TraceFile.open(ROOT / "traces" / f"agents-{trace_set}.parquet") as trace:
        return list(select(trace, agents, 0))


def _latencies(rows: Rows, duration_s: float) -> tuple[float, float, float]:
    """Mean TTFT, TTST and TPOT of turns due from 40 % to 90 % of the arrivals' duration."""
    due_s = rows["due_ns"] / 1e9
    rows = rows[(due_s > 0.4 * duration_s) & (due_s < 0.9 * duration_s) & (rows["generate_tokens"] > 2)]
    first, second = rows["first_token_ns"] / 1e9, rows["second_token_ns"] / 1e9
    tpot = (rows["end_ns"] / 1e9 - second) / (rows["generate_tokens"] - 2)
    return float((first - rows["due_ns"] / 1e9).mean()), float((second - first).mean()), float(tpot.mean())


def _by_cell(todo: Sequence[Cell], errors: list[float]) -> list[list[float]]:
    left = iter(errors)
    return [[next(left) for _ in cell.theirs] for cell in todo]


def _rows(figure: str) -> list[dict[str, str]]:
    with (PAPER / f"{figure}.csv").open() as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DualpathError as error:
        sys.exit(f"error: {error}")
