"""The two-line closed form of Fig 7: Oracle's JCT of the cell + bytes to load / pooled SNIC bandwidth.

    JCT = (Oracle JCT of the same cell) + (agents x turns x context x bytes per token) / (50 GB/s x SNICs read with)

with turns and context of Table 2 and the paper's own Oracle bars. A simulator has to beat it, and to say why it fits.
"""

from __future__ import annotations

from dualpath.core.known_models import MODELS

SNIC_BYTES_PER_S = 50e9
KV_BYTES = {  # per token
    "DS 660B": MODELS["ds-660b"].kv_bytes,
    "DS 27B": MODELS["ds-27b"].kv_bytes,
    "Qwen 32B": MODELS["qwen2.5-32b"].kv_bytes,
}

WHY_A_SUM_FITS = (
    "A sum fits although reads and compute could overlap because an agent is a closed loop: it cannot read turn k + 1 "
    "before it has decoded turn k, so the storage NICs are full only while many agents are under way, and the cold "
    "start and the tail of the longest trajectories, which cost compute and decode time but hardly any reading, come "
    "on top of that; where compute is the limit all along (DualPath on DS 660B) reads hide behind it and the sum is "
    "too large."
)


def snics(nodes: str, arm: str) -> int:
    """That the arm may read with: 2P4D -> 2 prefill nodes, 6 in all."""
    prefill, decode = (int(count) for count in nodes.removesuffix("D").split("P"))
    return prefill if arm in ("basic", "layerwise") else prefill + decode


def read_s(model: str, nodes: str, arm: str, agents: int, turns: float, context_tokens: float) -> float:
    """Seconds for the bytes of all hits at full rate."""
    num_bytes = agents * turns * context_tokens * KV_BYTES[model]
    return num_bytes / (SNIC_BYTES_PER_S * snics(nodes, arm))
