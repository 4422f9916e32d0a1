"""All that the scheduler knows, as arrays: what compiled code reads and writes.

Only functions of `core/` write a State; `scheduler.py` (the engine's side) and `sim/` (the simulator's) hold one each.
Requests are *flights* here: small numbers, used again when a request has ended.
"""

from __future__ import annotations

import numpy as np

from dualpath.core.arms import Arm
from dualpath.core.arrays import Arrays
from dualpath.core.cluster import Cluster
from dualpath.core.least import Least, new_least
from dualpath.core.queues import NONE, QUEUE
from dualpath.core.records import Integers, Records, records

FLIGHT = np.dtype(
    [
        (name, np.int64)
        for name in (
            "prompt_tokens",
            "total_tokens",  # prompt + output
            "hit_blocks",  # Full Blocks of the prompt that are in storage
            "prompt_blocks",
            "total_blocks",
            "prefill_engine",  # NONE until placed
            "decode_engine",
            "prefill_blocks",  # hit blocks read on the prefill side
            "decode_blocks",  # hit blocks read on the decode side
            "reads_left",
            "cached_tokens",  # hit tokens, later also those that earlier chunks computed
            "chunk_tokens",  # new tokens of the forward batch it is in
            "rank",  # its place among the requests of its PE, from when its hit KV was loaded
        )
    ]
)

ENGINE = np.dtype(
    [
        (name, np.int64)
        for name in (
            "node",
            "tokens",  # tok_e: tokens of assigned, unfinished requests (paper 5.1)
            "requests",  # seq_e: their number
            "buffer_used",  # PE or DE buffer, in Full Blocks
            "buffer_blocks",
            "hbm_used",  # KV in device memory: of a DE; of a PE where an arm holds all layers of a request at once
            "hbm_blocks",
            "num_batches",  # of a PE: forward batches given and not computed
        )
    ]
)

NODE = np.dtype(
    [
        ("read_queue_blocks", np.int64),  # read_q: blocks that wait on the node's storage NIC
        ("reported_blocks", np.int64),  # the same when it was last reported
        ("least_engine", np.int64),  # prefill nodes: the engine with the fewest tokens, the first of several
        ("least_tokens", np.int64),  # its tokens
    ]
)

RULES = np.dtype(
    [
        (name, np.int64)
        for name in (
            "num_prefill",
            "num_engines",
            "prefill_nodes",
            "num_nodes",
            "engines_per_prefill_node",
            "engines_per_decode_node",
            "pass_engines",  # PEs whose forward passes run together
            "block_tokens",
            "alpha_blocks",
            "beta_tokens",
            "pass_blocks",  # Layer Blocks of one layer a PE may hold for a batch
            "prefill_in_flight",
            "placement",
            "read_side",
            "reports",  # 1: queues are seen as last reported, 0: as they are
            "holds_hbm",  # 1: a request holds PE device memory for all its layers from its read on
        )
    ]
    + [
        ("z_factor", np.float64),
        ("quota_ns", np.float64),  # inf: no quota
        ("attention_ns_per_pair", np.float64),
        ("attention_ns_per_context", np.float64),
    ]
)

COUNTS = np.dtype(
    [
        (name, np.int64)
        for name in (
            "num_ready",  # ranks given
            "next_prefill",  # whose turn it is, round robin
            "next_decode",
            "num_commands",
            "num_free",  # flights that are free
        )
    ]
)

PREFILL, DECODE = 0, 1  # queues of requests that wait for a PE, for a DE
PLACEMENTS = ("round-robin", "adaptive")
READ_SIDES = ("prefill-only", "round-robin", "shorter-queue", "split")
COMMAND_FIELDS = 7


class State(Arrays):
    rules: Records  # [1] RULES
    counts: Records  # [1] COUNTS
    engines: Records  # [num_engines] ENGINE
    nodes: Records  # [num_nodes] NODE
    group_tokens: Least  # by decode node: tok_e of all its engines, and of requests in the group's private queue
    arrivals: Records  # [2] QUEUE: PREFILL, DECODE
    placed: Records  # [1] QUEUE: both engines known, no route yet
    group_queues: Records  # [num_nodes] QUEUE: private queues of the decode groups
    buffer_queues: Records  # [num_engines] QUEUE: requests that wait for the engine's memory
    ready_queues: Records  # [num_prefill] QUEUE: requests whose hit KV is loaded
    routes_chosen: Integers  # [num_prefill, num_decode] where routes alternate, else [1, 1]
    flights: Records  # [capacity] FLIGHT
    after: Integers  # [capacity] of `placed`, `buffer_queues`, `ready_queues` and forward batches
    after_prefill: Integers  # [capacity] of `arrivals[PREFILL]`
    after_decode: Integers  # [capacity] of `arrivals[DECODE]` and `group_queues`
    free: Integers  # [capacity] stack of free flights
    commands: Integers  # [many, COMMAND_FIELDS] the answer to the latest event: answers.py


def new_state(cluster: Cluster, arm: Arm, capacity: int) -> State:
    """The scheduler of an idle cluster with room for `capacity` requests at once."""
    rules, counts = records(RULES, 1), records(COUNTS, 1)
    constants, memory = cluster.constants, cluster.memory
    layers_held = cluster.layers_held(arm.layerwise)
    layer_block_bytes = cluster.block_tokens * cluster.model.kv_layer_bytes
    rules[0] = (
        cluster.num_prefill,
        cluster.num_engines,
        cluster.prefill.nodes,
        cluster.num_nodes,
        cluster.prefill.engines_per_node,
        cluster.decode.engines_per_node,
        cluster.pass_engines,
        cluster.block_tokens,
        constants.alpha_tokens // cluster.block_tokens,
        constants.beta_tokens,
        memory.prefill_hbm_bytes // (layers_held * layer_block_bytes),
        cluster.prefill_in_flight,
        PLACEMENTS.index(arm.placement),
        READ_SIDES.index(arm.read_side),
        constants.report_s > 0,
        not arm.layerwise,
        constants.z_factor,
        constants.quota_s * 1e9 if arm.quota else np.inf,
        constants.attention_ns_per_pair,
        constants.attention_ns_per_context,
    )
    engines = records(ENGINE, cluster.num_engines)
    for engine in range(cluster.num_engines):
        prefill = engine < cluster.num_prefill
        buffer_bytes = memory.prefill_buffer_bytes if prefill else memory.decode_buffer_bytes
        hbm_bytes = memory.prefill_hbm_bytes if prefill else memory.decode_hbm_bytes
        engines[engine].node = cluster.node_of(engine)
        engines[engine].buffer_blocks = buffer_bytes // cluster.block_bytes
        engines[engine].hbm_blocks = hbm_bytes // cluster.block_bytes
    nodes = records(NODE, cluster.num_nodes)
    nodes.least_engine[: cluster.prefill.nodes] = np.arange(cluster.prefill.nodes) * cluster.prefill.engines_per_node
    pairs = (cluster.num_prefill, cluster.num_decode) if arm.read_side == "round-robin" else (1, 1)
    state = State(
        rules=rules,
        counts=counts,
        engines=engines,
        nodes=nodes,
        group_tokens=new_least(cluster.decode.nodes, 0),
        arrivals=records(QUEUE, 2),
        placed=records(QUEUE, 1),
        group_queues=records(QUEUE, cluster.num_nodes),
        buffer_queues=records(QUEUE, cluster.num_engines),
        ready_queues=records(QUEUE, cluster.num_prefill),
        routes_chosen=np.zeros(pairs, np.int64),
        flights=records(FLIGHT, 0),
        after=np.zeros(0, np.int64),
        after_prefill=np.zeros(0, np.int64),
        after_decode=np.zeros(0, np.int64),
        free=np.zeros(0, np.int64),
        commands=np.zeros((0, COMMAND_FIELDS), np.int64),
    )
    grow(state, capacity)
    return state


def grow(state: State, capacity: int) -> None:
    """Make room for more requests."""
    added, num_free = capacity - len(state.flights), state.counts[0].num_free
    free = np.zeros(capacity, np.int64)
    free[:added] = np.arange(capacity - 1, len(state.flights) - 1, -1)
    free[added : added + num_free] = state.free[:num_free]
    state.counts[0].num_free += added
    state.put(
        flights=np.concatenate([state.flights, records(FLIGHT, added)]).view(np.recarray),
        after=_longer(state.after, added),
        after_prefill=_longer(state.after_prefill, added),
        after_decode=_longer(state.after_decode, added),
        free=free,
        # an event can place, route and start every request that waits
        commands=np.zeros((5 * capacity + 16, COMMAND_FIELDS), np.int64),
    )


def _longer(values: Integers, added: int) -> Integers:
    return np.concatenate([values, np.full(added, NONE, np.int64)])
