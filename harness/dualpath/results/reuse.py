"""How much storage reading a cache of DRAM in front of it would save: LRU stack distances of a run's turns.

A turn touches its trajectory's whole KV. A least-recently-used cache of C bytes that all nodes share still has the KV
of a turn's prompt if what was touched since that trajectory's previous turn, itself included, is at most C bytes
(Mattson et al., 1970): one pass over the turns gives the answer for every C. What ended trajectories leave behind
counts until it is pushed out: nobody tells a cache that an agent will not come back.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from dualpath.core.compiled import compiled
from dualpath.core.records import Integers
from dualpath.results.run import Run

NEVER = np.iinfo(np.int64).max


class Reuse(NamedTuple):
    """By turn that hits, in order of time."""

    hit_tokens: Integers
    distance_tokens: Integers  # the smallest cache that still has its KV

    def saved(self, cache_tokens: float) -> float:
        """Share of hit tokens that such a cache would serve. 0 where nothing hits."""
        all_tokens = int(self.hit_tokens.sum())
        return float(self.hit_tokens[self.distance_tokens <= cache_tokens].sum()) / all_tokens if all_tokens else 0.0


def reuse(run: Run, begin_ns: int, end_ns: int) -> Reuse:
    """Of the turns that are scheduled in [begin_ns, end_ns); those before fill the cache."""
    turns = (
        run.turns.filter(pl.col("scheduled_ns") < end_ns)
        .select(
            "scheduled_ns",
            pl.col("trajectory").cast(pl.Categorical).to_physical().cast(pl.Int64).alias("number"),
            pl.col("hit_tokens").cast(pl.Int64),
            (pl.col("hit_tokens").cast(pl.Int64) + pl.col("miss_tokens") + pl.col("generate_tokens")).alias("tokens"),
        )
        .sort("scheduled_ns", "number")
        .collect()
    )
    distances = distances_of(turns["number"].to_numpy(), turns["tokens"].to_numpy().astype(np.int64))
    hit_tokens = turns["hit_tokens"].to_numpy()
    counts = (turns["scheduled_ns"].to_numpy() >= begin_ns) & (hit_tokens > 0)
    return Reuse(hit_tokens[counts], distances[counts])


def distances_of(numbers: Integers, sizes: Integers) -> Integers:
    """By touch: the sum of the latest sizes of all that was touched since the same number was last, that number's own
    size of then included; NEVER where it was not touched before."""
    distances = np.full(len(numbers), NEVER, np.int64)
    if len(numbers):
        latest = np.full(int(numbers.max()) + 1, -1, np.int64)
        _fill(np.ascontiguousarray(numbers), np.ascontiguousarray(sizes), latest, distances)
    return distances


@compiled
def _fill(numbers: Integers, sizes: Integers, latest: Integers, distances: Integers) -> None:
    """A Fenwick tree over touches holds each number's size at its latest touch."""
    tree = np.zeros(len(numbers) + 1, np.int64)
    total = 0
    for touch in range(len(numbers)):
        before = latest[numbers[touch]]
        if before >= 0:
            distances[touch] = total - _sum(tree, before)  # touches [before, touch)
            _add(tree, before, -sizes[before])
            total -= sizes[before]
        _add(tree, touch, sizes[touch])
        total += sizes[touch]
        latest[numbers[touch]] = touch


@compiled
def _add(tree: Integers, place: int, size: int) -> None:
    place += 1
    while place < len(tree):
        tree[place] += size
        place += place & -place


@compiled
def _sum(tree: Integers, end: int) -> int:
    """Of places [0, end)."""
    total = 0
    while end:
        total += tree[end]
        end -= end & -end
    return total
