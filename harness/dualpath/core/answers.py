"""The scheduler's answer to an event, as numbers in `state.commands`; `commands.py` has the same as values to read.

ASSIGNED  flight, PE, DE, hit blocks read on the prefill side, both nodes' read queues in blocks before it joined
ADMIT     flight
READ      flight, side, engine, first block, number of blocks
PREFILL   first flight of the batch, engine
DECODE    flight, engine
"""

from __future__ import annotations

from dualpath.core.compiled import compiled
from dualpath.core.state import State

ASSIGNED, ADMIT, READ, PREFILL_BATCH, DECODE_START = range(5)


@compiled
def say(state: State, kind: int, flight: int, a: int, b: int, c: int, d: int, e: int) -> None:
    counts = state.counts[0]
    row = state.commands[counts.num_commands]
    row[0], row[1], row[2], row[3], row[4], row[5], row[6] = kind, flight, a, b, c, d, e
    counts.num_commands += 1
