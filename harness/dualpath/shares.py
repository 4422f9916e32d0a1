"""A run simulated in memory, and how long each of its resources needed at least: what results/binding.py chooses from.

All are shares of one time: the life of the run's longest trajectory (with its sub-agents), which offline is the whole
run. Online, the time before and after it would only dilute them.

    links      busy time, mean over the side's links, of the direction that was busier; of CNICs and DRAM the busier
               side's; DRAM reads and writes together
    prefill    of each pass its longest attention and its new tokens, and of what a pass costs anyhow the part that it
               was full, of attention quota or device memory: fuller passes would have saved the rest
    decode     of each turn its steps, what a step costs anyhow divided among the requests for which an engine's
               device memory has room
    latency    the longest trajectory, alone on the same cluster
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from dualpath.core.arms import Arm
from dualpath.core.cluster import Cluster
from dualpath.core.feed import Feed, Start
from dualpath.results.tables import TABLES
from dualpath.sim.links import CNIC, DRAM, SNIC, Links, counter
from dualpath.sim.profile import Profile
from dualpath.sim.simulator import Simulator, Sinks
from dualpath.sim.tables import pass_table, turn_table


@dataclass(frozen=True, slots=True)
class Machine:
    """What a trace is simulated on. `cluster` has passed sim.simulator.check and has the profile's constants."""

    cluster: Cluster
    profile: Profile
    arm: Arm
    gap_factor: float = 0.0


class Ran(NamedTuple):
    """A simulated run, its tables as those of a run directory."""

    turns: pl.DataFrame
    passes: pl.DataFrame
    links: Links
    events: int


class Life(NamedTuple):
    """Of the trajectory that took longest: which one (index of its start), and when."""

    start: int
    begin_ns: int
    end_ns: int

    @property
    def ns(self) -> int:
        return self.end_ns - self.begin_ns


def run_in_memory(machine: Machine, starts: Iterable[Start]) -> Ran:
    turns: list[pa.Table] = [TABLES["turns"].empty_table()]
    passes: list[pa.Table] = [TABLES["passes"].empty_table()]
    simulator = Simulator(
        machine.cluster,
        machine.arm,
        machine.profile,
        Feed(starts, machine.gap_factor, machine.cluster.block_tokens),
        Sinks(
            turns=lambda rows, feed: turns.append(turn_table(rows, feed, machine.arm)),
            passes=lambda rows: passes.append(pass_table(rows)),
            events=None,
        ),
    )
    while simulator.run_slice():
        pass
    parts = simulator.parts
    return Ran(_frame(turns), _frame(passes), parts.links, int(parts.counts[0].events))


def _frame(tables: list[pa.Table]) -> pl.DataFrame:
    frame = pl.from_arrow(pa.concat_tables(tables))
    assert isinstance(frame, pl.DataFrame), "a table is no series"
    return frame


def shares(machine: Machine, ran: Ran, starts: Sequence[Start]) -> dict[str, float]:
    """Of every candidate of results/binding.py. `starts`: those of the run."""
    life = longest_life(ran.turns, starts)
    alone = run_in_memory(machine, [Start(0, starts[life.start].family)])
    needs_ns = {
        **_links_ns(machine.cluster, ran.links, life),
        "prefill": _prefill_ns(machine, ran.passes, life),
        "decode": _decode_ns(machine, ran.turns, life),
        "latency": longest_life(alone.turns, starts).ns,
    }
    return {candidate: need_ns / life.ns for candidate, need_ns in needs_ns.items()}


def longest_life(turns: pl.DataFrame, starts: Sequence[Start]) -> Life:
    """First turn due to last token; the first of equals."""
    owners = [(member.id, index) for index, start in enumerate(starts) for member in start.family]
    lives = (
        turns.lazy()
        .join(pl.LazyFrame(owners, {"trajectory": pl.String, "start": pl.Int64}, orient="row"), on="trajectory")
        .group_by("start")
        .agg(pl.col("due_ns").min(), pl.col("end_ns").max())
        .sort(pl.col("end_ns") - pl.col("due_ns"), -pl.col("start"), descending=True)
    )
    return Life(*lives.first().collect().row(0))


def _links_ns(cluster: Cluster, links: Links, life: Life) -> dict[str, float]:
    """Busy time of the mean link. A bucket counts whole where the life only touches it."""
    width_ns = int(links.bucket_ns[0])
    buckets = slice(life.begin_ns // width_ns, -(-life.end_ns // width_ns))
    busy_ns = np.minimum(links.busy_ns[buckets].sum(axis=(0, 2)), life.ns)  # [num_counters]

    def mean_ns(resource: int, places: range, is_write: int) -> float:
        # counters of one kind stand in a row, by node, or of CNICs by engine
        first = counter(links, resource, places.start, places.start, is_write)
        return float(busy_ns[first : first + len(places)].mean())

    def busier_ns(resource: int, places: range) -> float:
        return max(mean_ns(resource, places, is_write) for is_write in range(2))

    prefill_nodes, decode_nodes = range(cluster.prefill.nodes), range(cluster.prefill.nodes, cluster.num_nodes)
    engines = range(cluster.num_prefill), range(cluster.num_prefill, cluster.num_engines)
    return {
        "snic_prefill": busier_ns(SNIC, prefill_nodes),
        "snic_decode": busier_ns(SNIC, decode_nodes),
        "cnic": max(busier_ns(CNIC, side) for side in engines),
        "dram": max(
            sum(mean_ns(DRAM, side, is_write) for is_write in range(2)) for side in (prefill_nodes, decode_nodes)
        ),
    }


def _prefill_ns(machine: Machine, passes: pl.DataFrame, life: Life) -> float:
    """What the mean pass group must compute, whatever passes are made of it."""
    cluster, profile = machine.cluster, machine.profile
    layers_held = cluster.layers_held(machine.arm.layerwise)
    memory_bytes = cluster.memory.prefill_hbm_bytes * cluster.pass_engines
    full = pl.col("context_tokens") * (layers_held * cluster.model.kv_layer_bytes / memory_bytes)
    if machine.arm.quota:
        full = pl.max_horizontal(full, pl.col("attention_mean_ns") / (cluster.constants.quota_s * 1e9))
    tokens_ns = pl.col("new_tokens") * (profile.prefill_us_per_token * 1e3 / cluster.pass_engines)
    needs_ns = pl.col("attention_max_ns") + tokens_ns + full.clip(0, 1) * (profile.pass_ms * 1e6)
    within = passes.filter(pl.col("start_ns") >= life.begin_ns, pl.col("end_ns") <= life.end_ns)
    return float(within.select(needs_ns.sum()).item()) / (cluster.num_prefill // cluster.pass_engines)


def _decode_ns(machine: Machine, turns: pl.DataFrame, life: Life) -> float:
    """What the mean decode engine must compute where every step has all the requests that its memory holds."""
    cluster, profile = machine.cluster, machine.profile
    tokens = pl.col("hit_tokens").cast(pl.Float64) + pl.col("miss_tokens") + pl.col("generate_tokens")
    of_memory = tokens * (cluster.model.kv_bytes / cluster.memory.decode_hbm_bytes)
    mean_context = tokens - pl.col("generate_tokens") / 2
    step_ns = (
        of_memory * (profile.step_ms * 1e6)
        + profile.step_us_per_request * 1e3
        + mean_context * profile.step_ns_per_context
    )
    within = turns.filter(pl.col("due_ns") >= life.begin_ns, pl.col("end_ns") <= life.end_ns)
    return float(within.select(((pl.col("generate_tokens") - 1) * step_ns).sum()).item()) / cluster.num_decode
