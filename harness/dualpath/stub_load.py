"""What stub engines are given to serve, and what is known of it beforehand: how long each turn, agent and run takes."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from dualpath.cluster_file import load_cluster
from dualpath.core.errors import RunError
from dualpath.core.trajectory import Trajectory, Turn
from dualpath.engine.messages import Delays
from dualpath.plan import Plan, starts_of
from dualpath.trace.reader import TraceFile
from dualpath.trace.schema import TraceMeta
from dualpath.trace.writer import TraceWriter

MS = 1_000_000
TURNS, TOKENS = 4, 17  # of an agent; of a turn's output
DELAYS = Delays(read_ns=7 * MS, first_token_ns=50 * MS, handover_ns=3 * MS, token_ns=5 * MS)
_GAP_NS = 40 * MS
_AGENTS, _AGENTS_PER_S = 50, 10.0
_MOST_AGENTS = 5000  # of the trace

_CLUSTER = """# Stub engines: memory is no limit, and as many batches are under way as can be.
model = "tiny-gqa"
block_tokens = 16
[prefill]
nodes = 1
[decode]
nodes = 1
[links]
snic = "native"
cnic = "native"
[memory]
prefill_buffer = "1GiB"
decode_buffer = "1GiB"
prefill_hbm = "1GiB"
decode_hbm = "1GiB"
[scheduler]
read_tokens_per_s = 10000
prefill_tokens_per_s = 10000
attention_ns_per_pair = 1
prefill_in_flight = 64
"""


def stub_plan(folder: Path, delays: Delays) -> Plan:
    """A run in folder/base; its trace and cluster are written beside it. Raises RunError, TraceError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "stub.toml").write_text(_CLUSTER)
    except OSError as error:
        raise RunError(f"{folder}: cannot be used: {error.strerror}; choose another -o") from None
    turns = (Turn(100, TOKENS), *[Turn(20, TOKENS, gap_ns=_GAP_NS)] * (TURNS - 1))
    with TraceWriter(folder / "stub.parquet", TraceMeta(source="agents all alike", licence="Apache-2.0")) as writer:
        for number in range(_MOST_AGENTS):
            writer.write(Trajectory(f"agent-{number}", turns))
    return Plan(
        folder / "stub.parquet",
        folder / "stub.toml",
        "layerwise",
        folder / "base",
        agents=_AGENTS,
        mode="online",
        rate_per_s=_AGENTS_PER_S,
        gap_scale=1.0,
        null=True,
        delays=delays,
    )


def known_turns(plan: Plan) -> pl.DataFrame:
    """What trace and DELAYS, not the plan's own, say of every turn: trajectory, turn, ttft, ttst, tpot in ns."""
    block_tokens = load_cluster(plan.cluster).cluster.block_tokens
    rows: list[tuple[str, int, float, float, float]] = []
    for trajectory, _ in _agents(plan):
        for index, hit_tokens in enumerate(trajectory.planned_hit_tokens(block_tokens)):
            more_tokens = trajectory.turns[index].generate_tokens - 1
            tpot_ns = DELAYS.token_ns + DELAYS.handover_ns / more_tokens
            ttft_ns = DELAYS.first_token_ns + (DELAYS.read_ns if hit_tokens else 0)
            rows.append((trajectory.id, index, ttft_ns, DELAYS.handover_ns + DELAYS.token_ns, tpot_ns))
    latencies = dict.fromkeys(("ttft", "ttst", "tpot"), pl.Float64)
    return pl.DataFrame(rows, {"trajectory": pl.String, "turn": pl.Int32, **latencies}, orient="row")


def known_trajectories(plan: Plan) -> pl.DataFrame:
    """What follows from it and from the arrivals: trajectory, trajectory_jct, end in ns."""
    turns = known_turns(plan)
    served_ns = pl.col("ttft") + pl.col("tpot") * (TOKENS - 1)
    jct_ns = served_ns.sum() + _GAP_NS * (TURNS - 1)
    arrivals = pl.DataFrame(
        [(trajectory.id, arrival_ns) for trajectory, arrival_ns in _agents(plan)],
        {"trajectory": pl.String, "arrival": pl.Float64},
        orient="row",
    )
    return (
        turns.group_by("trajectory")
        .agg(jct_ns.alias("trajectory_jct"))
        .join(arrivals, on="trajectory")
        .select("trajectory", "trajectory_jct", end=pl.col("arrival") + pl.col("trajectory_jct"))
    )


def _agents(plan: Plan) -> list[tuple[Trajectory, int]]:
    with TraceFile.open(plan.trace) as trace:
        return [(start.family[0], start.arrival_ns) for start in starts_of(plan, trace)]
