"""What a request is about: the tokens and blocks behind the scheduler's counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dualpath.engine.messages import BlockRef


@dataclass(frozen=True, slots=True)
class TurnContent:
    """Kept by the coordinator for as long as the request lives."""

    prompt_ids: NDArray[np.int32]  # [prompt tokens]
    output_ids: NDArray[np.int32]  # [generated tokens]
    keys: list[bytes]  # of every block that is full when the turn ends
    hit_refs: list[BlockRef]  # of the hit blocks; empty where KV is not moved
