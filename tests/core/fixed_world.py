"""One seeded world per arm, tight in every memory, and all that the scheduler says in it.

Run as a program, it prints them: test_compiled.py does so without the compiler.
"""

from __future__ import annotations

import inspect
import json
import random

from dualpath.core import steps
from dualpath.core.arms import ARMS
from dualpath.core.events import Request
from small_cluster import BLOCK_TOKENS, small_cluster
from worlds import MAX_PROMPT_BLOCKS, World, play

NUM_REQUESTS = 90  # more at once than the scheduler has room for at first


def fixed_world(arm: str) -> World:
    rng = random.Random(arm)
    cluster = small_cluster(
        prefill=(2, 2),
        decode=(2, 2),
        prefill_buffer=15,
        decode_buffer=20,
        prefill_hbm=15,
        decode_hbm=40,
        alpha_tokens=20,
        beta_tokens=60,
        quota_pairs=300,
        ns_per_context=1.0,
        pass_engines=2,
    )
    due: list[tuple[int, Request]] = []
    for number in range(NUM_REQUESTS):
        prompt_tokens = rng.randint(1, MAX_PROMPT_BLOCKS * BLOCK_TOKENS)
        hit_blocks = rng.randint(0, (prompt_tokens - 1) // BLOCK_TOKENS)
        due.append((number // 3, Request(number, number, 0, prompt_tokens, rng.randint(1, 8), hit_blocks)))
    return World(cluster, ARMS[arm], tuple(due), seed=1, max_delay_ns=9)


def said(arm: str) -> list[str]:
    """Every event with its answer."""
    played = play(fixed_world(arm))
    return [f"{event} -> {answer}" for event, answer in zip(played.events, played.answers, strict=True)]


def is_compiled() -> bool:
    return not inspect.isfunction(steps.turn_due)


if __name__ == "__main__":
    print(json.dumps({"compiled": is_compiled(), "said": {arm: said(arm) for arm in ARMS}}))
