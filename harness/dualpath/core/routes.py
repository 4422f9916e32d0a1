"""Read side policies: how many of a request's hit blocks each side reads (paper 5.4, section 6.1).

Each is a function (hit_blocks, prefill_queue, decode_queue, turn) -> blocks read on the prefill side; the decode
side reads the rest. Queues are in blocks waiting on the two nodes' storage NICs; `turn` counts the choices so far for
the request's pair of engines (one count for all would fall into step with round-robin placement: with two DEs, every
second request goes to the second one, and the first would never read).
"""

from __future__ import annotations

from dualpath.core.compiled import compiled


@compiled
def prefill_only(hit_blocks: int, prefill_queue: int, decode_queue: int, turn: int) -> int:
    """Single path: storage -> PE."""
    return hit_blocks


@compiled
def round_robin(hit_blocks: int, prefill_queue: int, decode_queue: int, turn: int) -> int:
    """Alternate sides, blind to queues: what the paper's balance figures compare with."""
    return hit_blocks if turn % 2 == 0 else 0


@compiled
def shorter_queue(hit_blocks: int, prefill_queue: int, decode_queue: int, turn: int) -> int:
    """The whole request on the side whose read queue is shorter. Ties, which the paper leaves open, go to the DE: its
    hit KV crosses compute NICs twice, that of the prefill route four times (`hops.py`: load-decode against load-prefill
    and forward), and a request alone waits for that."""
    return hit_blocks if prefill_queue < decode_queue else 0


@compiled
def split(hit_blocks: int, prefill_queue: int, decode_queue: int, turn: int) -> int:
    """Divide the request so that both sides finish together, given each queue and equal storage NICs:
    prefill_queue + x = decode_queue + (hit_blocks - x)."""
    return min(hit_blocks, max(0, (hit_blocks + decode_queue - prefill_queue + 1) // 2))


@compiled
def choose(read_side: int, hit_blocks: int, prefill_queue: int, decode_queue: int, turn: int) -> int:
    """By number in `state.READ_SIDES`."""
    if read_side == 0:
        return prefill_only(hit_blocks, prefill_queue, decode_queue, turn)
    if read_side == 1:
        return round_robin(hit_blocks, prefill_queue, decode_queue, turn)
    if read_side == 2:
        return shorter_queue(hit_blocks, prefill_queue, decode_queue, turn)
    return split(hit_blocks, prefill_queue, decode_queue, turn)
