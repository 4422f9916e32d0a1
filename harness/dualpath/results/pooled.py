"""How long a run would take whose storage NICs were one, and that all else as long as it takes without storage.

Two bounds say little on their own: storage alone (bound.snic_bound) forgets that an agent's next turn waits for the one
before, and the oracle alone that turns wait for storage. Here they are put together: each turn reads its hits from one
queue, served in order at the rate of all storage NICs that the arm may read with, and then takes what the same turn
took in the oracle, which computes, queues and decodes but reads nothing. An agent's next turn follows.

A yardstick rather than a bound: another order of the queue may be quicker, and the oracle's turns stood in queues that
are longer than a run's that waits for storage. Such a run may beat it by a few per cent.
"""

from __future__ import annotations

import heapq

import polars as pl

from dualpath.core.errors import RunError
from dualpath.results.run import Run, require_result

_TURN = ["trajectory", "turn"]


def pooled_s(run: Run, oracle: Run) -> float | None:
    """JCT in seconds of an offline run. None where it says nothing: native links, no read, or agents that pause.

    Raises RunError for a void run, or an oracle of other turns.
    """
    require_result(run)
    require_result(oracle)
    rate, snics = run.cluster.snic_bytes_per_s, len(run.read_nodes())
    feed = run.manifest.feed
    if rate is None or not snics or feed.mode != "offline" or feed.gap_scale or feed.gap_s:
        return None
    bytes_per_token = run.cluster.kv_bytes_per_token
    read = pl.col("hit_tokens").cast(pl.Float64) * bytes_per_token / (rate * snics)
    rest = (pl.col("end_ns") - pl.col("due_ns")) / 1e9
    ours, others = run.turns.select(*_TURN, read=read).collect(), oracle.turns.select(*_TURN, rest=rest).collect()
    turns = ours.join(others, on=_TURN).sort(_TURN)
    if not turns.height == ours.height == others.height:
        raise RunError(f"{run.directory} and {oracle.directory} have other turns; replay both alike")
    agents = [
        list(zip(group["read"].to_list(), group["rest"].to_list(), strict=True))
        for group in turns.partition_by("trajectory")
    ]
    return _serve(agents)


def _serve(agents: list[list[tuple[float, float]]]) -> float:
    """When the last turn ends. agents: of each of its turns, the seconds of its read and of all that follows."""
    due = [(0.0, agent, 0) for agent in range(len(agents))]
    free_s = end_s = 0.0
    while due:
        at_s, agent, turn = heapq.heappop(due)
        read_s, rest_s = agents[agent][turn]
        if read_s:
            at_s = free_s = max(free_s, at_s) + read_s
        at_s += rest_s
        end_s = max(end_s, at_s)
        if turn + 1 < len(agents[agent]):
            heapq.heappush(due, (at_s, agent, turn + 1))
    return end_s
