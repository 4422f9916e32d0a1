"""The arms of the experiment: named combinations of how KV is loaded and how requests are placed.

`basic`, `layerwise`, `dualpath-rr`, `dualpath` are the paper's ablation (Fig 12), cumulative in this order;
`split` is its named future work (section 6.1); `oracle` its upper bound (section 7.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ReadSide = Literal["prefill-only", "round-robin", "shorter-queue", "split"]
Placement = Literal["round-robin", "adaptive"]


@dataclass(frozen=True, slots=True)
class Arm:
    name: str
    layerwise: bool  # the PE holds two layers of KV at a time, or three, not all
    read_side: ReadSide  # how a request's route is chosen
    placement: Placement  # which PE and DE serve a request
    quota: bool  # PE batches are cut by predicted attention time, with chunking
    moves_kv: bool = True  # False: every storage access, host-device copy and PE-DE transfer is skipped


ARMS = {
    arm.name: arm
    for arm in (
        Arm("basic", layerwise=False, read_side="prefill-only", placement="round-robin", quota=False),
        Arm("layerwise", layerwise=True, read_side="prefill-only", placement="round-robin", quota=False),
        Arm("dualpath-rr", layerwise=True, read_side="round-robin", placement="round-robin", quota=False),
        Arm("dualpath", layerwise=True, read_side="shorter-queue", placement="adaptive", quota=True),
        Arm("split", layerwise=True, read_side="split", placement="adaptive", quota=True),
        Arm(
            "oracle",
            layerwise=True,
            read_side="shorter-queue",
            placement="adaptive",
            quota=True,
            moves_kv=False,
        ),
    )
}
