"""What requests are about: the tokens and blocks behind the scheduler's counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dualpath.core.cluster import Cluster
from dualpath.core.events import Request
from dualpath.core.feed import DueTurn
from dualpath.core.prefix import PrefixIndex
from dualpath.core.trajectory import Trajectory
from dualpath.engine.messages import BlockRef
from dualpath.engine.store import Location
from dualpath.trace.tokens import TokenStream


@dataclass(frozen=True, slots=True)
class TurnContent:
    """Kept by the coordinator for as long as the request lives."""

    prompt_ids: NDArray[np.int32]  # [prompt tokens]
    output_ids: NDArray[np.int32]  # [generated tokens]
    keys: list[bytes]  # of every block that is full when the turn ends
    hit_refs: list[BlockRef]  # of the hit blocks; empty where KV is not moved


@dataclass(frozen=True, slots=True)
class _Agent:
    """A trajectory under way."""

    prompts: list[int]  # by turn, tokens
    stream: TokenStream


class Contents:
    """Makes due turns requests: their tokens, their blocks, and which of these are in storage.

    trajectory: of a number that the feed gave, while it runs. moves_kv: False where blocks are only said to be stored.
    """

    def __init__(self, cluster: Cluster, trajectory: Callable[[int], Trajectory], seed: int, *, moves_kv: bool) -> None:
        self._cluster = cluster
        self._trajectory = trajectory
        self._seed = seed
        self._moves_kv = moves_kv
        self._agents: dict[int, _Agent] = {}
        self._index = PrefixIndex()
        self._locations: dict[bytes, Location] = {}
        self._num_requests = 0
        self.live: dict[int, TurnContent] = {}

    def known(self, locations: dict[bytes, Location]) -> None:
        """Blocks that are in the store already."""
        self._index.add(list(locations))
        self._locations.update(locations)

    def admit(self, due: DueTurn) -> Request:
        """Make a due turn a request: look up how much of its prompt is in storage."""
        block_tokens = self._cluster.block_tokens
        trajectory = self._trajectory(due.trajectory)
        if due.turn == 0:
            stream = TokenStream(trajectory, seed=self._seed, vocab=self._cluster.model.vocab)
            self._agents[due.trajectory] = _Agent(trajectory.prompt_tokens(), stream)
        agent = self._agents[due.trajectory]
        if due.turn + 1 == len(trajectory.turns):
            del self._agents[due.trajectory]
        prompt_tokens = agent.prompts[due.turn]
        generate_tokens = trajectory.turns[due.turn].generate_tokens
        # The last generated token is never fed back, so it has no KV and fills no block.
        keys = agent.stream.keys(due.turn, block_tokens)[: (prompt_tokens + generate_tokens - 1) // block_tokens]
        # At least one prompt token is computed, or there would be nothing to sample the first token from.
        hit_blocks = self._index.match(keys[: (prompt_tokens - 1) // block_tokens])
        refs = [BlockRef(key, self._locations[key]) for key in keys[:hit_blocks]] if self._moves_kv else []
        request = Request(self._num_requests, due.trajectory, due.turn, prompt_tokens, generate_tokens, hit_blocks)
        self._num_requests += 1
        self.live[request.id] = TurnContent(agent.stream.prompt(due.turn), agent.stream.output(due.turn), keys, refs)
        return request

    def stored(self, content: TurnContent, refs: list[BlockRef]) -> None:
        """A turn has left its full blocks in storage (or, in an arm that moves no KV, would have)."""
        self._index.add(content.keys)
        for ref in refs:
            self._locations[ref.key] = ref.location
