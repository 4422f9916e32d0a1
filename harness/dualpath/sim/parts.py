"""All that a simulation holds, as arrays: what compiled code reads and writes."""

from __future__ import annotations

import numpy as np

from dualpath.core.agents import Agents
from dualpath.core.arms import Arm
from dualpath.core.arrays import Arrays
from dualpath.core.cluster import Cluster
from dualpath.core.heap import Heap, grow_heap, new_heap
from dualpath.core.least import NEVER, Least, new_least
from dualpath.core.records import Integers, Records, records
from dualpath.core.state import State, grow, new_state
from dualpath.sim.decode import Decode, grow_decode, new_decode
from dualpath.sim.links import Links, new_links
from dualpath.sim.profile import Profile

COSTS = np.dtype(
    [
        (name, np.int64)
        for name in (
            "moves_kv",
            "layerwise",
            "layers",
            "kv_bytes",
            "block_tokens",
            "pass_engines",
            "step_engines",
            "report_ns",
        )
    ]
    + [
        (name, np.float64)
        for name in (
            "pass_ns",
            "prefill_ns_per_token",
            "attention_ns_per_pair",
            "attention_ns_per_context",
            "request_ns",
            "handoff_ns",
            "client_ns_per_byte",
            "cores",
            "cold_ns_per_token",
            "model_bytes_per_token",
        )
    ]
)

# What is noted of a flight; a row of the table `turns` when it ends. Times are -1 until they happen.
TURN_ROW = np.dtype(
    [
        (name, np.int64)
        for name in (
            "request",
            "trajectory",
            "turn",
            "append_tokens",
            "generate_tokens",
            "prompt_tokens",
            "planned_hit_tokens",
            "hit_tokens",
            "decode_side_tokens",
            "prefill_engine",
            "decode_engine",
            "prefill_queue_tokens",
            "decode_queue_tokens",
            "due_ns",
            "released_ns",
            "scheduled_ns",
            "read_start_ns",
            "read_end_ns",
            "prefill_start_ns",
            "prefill_end_ns",
            "first_token_ns",
            "second_token_ns",
            "end_ns",
            "persisted_ns",
        )
    ]
)

# One forward pass of a pass group (the table `passes`).
PASS_ROW = np.dtype(
    [
        (name, np.int64)
        for name in ("group", "start_ns", "end_ns", "busy_engines", "requests", "new_tokens", "context_tokens")
    ]
    + [("attention_max_ns", np.float64), ("attention_mean_ns", np.float64)]
)

COUNTS = np.dtype(
    [
        (name, np.int64)
        for name in (
            "now_ns",
            "next_report_ns",
            "events",
            "requests",
            "batches",
            "turns",
            "passes",
            "log",
            "last_end_ns",
        )
    ]
)
LOG_FIELDS = 8  # time, kind of event, then what the kind needs: witness.py


class Parts(Arrays):
    costs: Records  # [1] COSTS
    counts: Records  # [1] COUNTS
    state: State
    agents: Agents
    turns: Records  # TURN rows of the trajectories under way
    links: Links
    decode: Decode
    step_ps: Integers  # [3] of a decode group that has cores of its own
    timers: Least  # by decode group: when it is to be visited, ns
    events: Heap  # (time, kind, flight or engine, payload)
    client_free_ns: Integers  # [num_engines] when an engine's storage client has served its reads
    pass_free_ns: Integers  # [num pass groups] when the passes given so far are computed
    most_new: Integers  # [num pass groups] new tokens of the largest pass so far
    slots: Integers  # [capacity] agent of a flight
    marks: Records  # [capacity] TURN_ROW
    pass_start_ns: Integers  # [capacity] of a batch, by its first flight
    batch: Integers  # [capacity] its number, likewise
    joined: Integers  # [capacity] scratch
    turn_rows: Records  # [many] TURN_ROW: finished, until somebody writes them
    pass_rows: Records  # [many] PASS_ROW
    log: Integers  # [many, LOG_FIELDS] events that the scheduler was told; [0, ...]: not kept


def new_parts(
    cluster: Cluster, arm: Arm, profile: Profile, agents: Agents, turns: Records, bucket_ns: int, *, keep_log: bool
) -> Parts:
    costs = records(COSTS, 1)
    costs[0] = (
        arm.moves_kv,
        arm.layerwise,
        cluster.model.layers,
        cluster.model.kv_bytes,
        cluster.block_tokens,
        cluster.pass_engines,
        profile.step_engines,
        round(cluster.constants.report_s * 1e9),
        profile.pass_ms * 1e6,
        profile.prefill_us_per_token * 1e3,
        profile.attention_ns_per_pair,
        profile.attention_us_per_context * 1e3,
        profile.request_ms * 1e6,
        profile.handoff_ms * 1e6,
        1 / profile.client_gb_per_s if profile.client_gb_per_s else 0.0,
        profile.cores,
        profile.cold_us_per_token * 1e3,
        cluster.model_bytes_per_token,
    )
    capacity = 64
    step_ps = (
        round(profile.step_ms * 1e9),
        round(profile.step_us_per_request * 1e6),
        round(profile.step_ns_per_context * 1e3),
    )
    parts = Parts(
        costs=costs,
        counts=records(COUNTS, 1),
        state=new_state(cluster, arm, capacity),
        agents=agents,
        turns=turns,
        links=new_links(cluster, profile.dram_gb_per_s * 1e9, profile.snic_us_per_block * 1e3, bucket_ns),
        decode=new_decode(cluster.num_decode, profile.step_engines, step_ps, capacity),
        step_ps=np.array(step_ps, np.int64),
        timers=new_least(cluster.num_decode // profile.step_engines, NEVER),
        events=new_heap(0),
        client_free_ns=np.zeros(cluster.num_engines, np.int64),
        pass_free_ns=np.zeros(cluster.num_prefill // cluster.pass_engines, np.int64),
        most_new=np.zeros(cluster.num_prefill // cluster.pass_engines, np.int64),
        slots=np.zeros(0, np.int64),
        marks=records(TURN_ROW, 0),
        pass_start_ns=np.zeros(0, np.int64),
        batch=np.zeros(0, np.int64),
        joined=np.zeros(0, np.int64),
        turn_rows=records(TURN_ROW, 1 << 16),
        pass_rows=records(PASS_ROW, 1 << 15),
        log=np.zeros((1 << 18 if keep_log else 0, LOG_FIELDS), np.int64),
    )
    _size(parts, capacity)
    return parts


def grow_parts(parts: Parts, capacity: int) -> None:
    """Make room for more requests at once."""
    grow(parts.state, capacity)
    grow_decode(parts.decode, capacity)
    _size(parts, capacity)


def _size(parts: Parts, capacity: int) -> None:
    more = np.zeros(capacity - len(parts.slots), np.int64)
    # a flight has few events to come at once: two reads, or one of each later kind
    grow_heap(parts.events, 4 * capacity + len(parts.client_free_ns))
    parts.put(
        slots=np.concatenate([parts.slots, more]),
        marks=np.concatenate([parts.marks, records(TURN_ROW, len(more))]).view(np.recarray),
        pass_start_ns=np.concatenate([parts.pass_start_ns, more]),
        batch=np.concatenate([parts.batch, more]),
        joined=np.zeros(capacity, np.int64),
    )
