"""Clusters small enough to reason about: 16 bytes per Full Block, memories given in blocks."""

from __future__ import annotations

from dualpath.core.cluster import Cluster, Constants, Memory, Nodes
from dualpath.core.model_shape import ModelShape

BLOCK_TOKENS = 4
LAYERS = 3
# 2 bytes of KV per token and layer
MODEL = ModelShape("test", "gqa", LAYERS, hidden=1, heads=1, head_dim=1, mlp=1, vocab=2, kv_heads=1, kv_dtype="fp8")
LAYER_BLOCK_BYTES = BLOCK_TOKENS * MODEL.kv_layer_bytes
BLOCK_BYTES = BLOCK_TOKENS * MODEL.kv_bytes


def small_cluster(
    prefill: tuple[int, int] = (1, 1),
    decode: tuple[int, int] = (1, 1),
    *,
    prefill_buffer: int = 1000,
    decode_buffer: int = 1000,
    prefill_hbm: int = 1000,
    decode_hbm: int = 1000,
    alpha_tokens: int = 10**6,
    beta_tokens: int = 10**6,
    quota_pairs: float = 1e9,
    z_factor: float = 1.05,
    ns_per_context: float = 0.0,
    prefill_in_flight: int = 1,
    report_s: float = 0.0,
    pass_engines: int = 1,
) -> Cluster:
    """prefill, decode: (nodes, engines per node). Memories: blocks per engine. quota_pairs: (new, attended) pairs, of
    1 ns each."""
    return Cluster(
        "small",
        MODEL,
        Nodes(*prefill),
        Nodes(*decode),
        Memory(
            prefill_buffer * BLOCK_BYTES,
            decode_buffer * BLOCK_BYTES,
            prefill_hbm * LAYERS * LAYER_BLOCK_BYTES,
            decode_hbm * BLOCK_BYTES,
        ),
        None,
        None,
        Constants(
            alpha_s=1.0,
            beta_s=1.0,
            quota_s=quota_pairs / 1e9,
            z_factor=z_factor,
            report_s=report_s,
            read_tokens_per_s=alpha_tokens,
            prefill_tokens_per_s=beta_tokens,
            attention_ns_per_pair=1.0,
            attention_ns_per_context=ns_per_context,
        ),
        block_tokens=BLOCK_TOKENS,
        prefill_in_flight=prefill_in_flight,
        pass_engines=pass_engines,
    )
