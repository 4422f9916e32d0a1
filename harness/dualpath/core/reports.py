"""What the scheduler sees of the storage NICs' queues.

Leader engines report the queue of their node (paper 5.1); how often is not stated. With `rules.reports` the scheduler
sees the latest report, which does not change with what it has assigned since, so requests that come between two
reports flock to one side. Without, it counts for itself, and always knows.
"""

from __future__ import annotations

from dualpath.core.compiled import compiled
from dualpath.core.state import State


@compiled
def read_queue(state: State, node: int) -> int:
    """Blocks that wait on a node's storage NIC, as far as the scheduler can see."""
    if state.rules[0].reports:
        return state.nodes[node].reported_blocks
    return state.nodes[node].read_queue_blocks


@compiled
def take_reports(state: State) -> None:
    for node in range(state.rules[0].num_nodes):
        state.nodes[node].reported_blocks = state.nodes[node].read_queue_blocks
