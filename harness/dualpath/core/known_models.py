"""Models that a cluster file may name."""

from __future__ import annotations

from dataclasses import replace

from dualpath.core.model_shape import ModelShape, Yarn

# Small enough for a CPU: much KV per token beside little arithmetic, as on the paper's hardware.
_FOR_CPUS = (
    ModelShape("cpu-gqa", "gqa", layers=4, hidden=64, heads=4, kv_heads=2, head_dim=96, mlp=128, vocab=512),
    ModelShape(
        "cpu-mla",
        "mla",
        layers=4,
        hidden=64,
        heads=4,
        head_dim=32,
        mlp=128,
        vocab=512,
        latent_dim=352,
        rope_dim=32,
    ),
    ModelShape("tiny-gqa", "gqa", layers=3, hidden=32, heads=4, kv_heads=2, head_dim=8, mlp=64, vocab=128),
    ModelShape(
        "tiny-mla",
        "mla",
        layers=3,
        hidden=32,
        heads=4,
        head_dim=8,
        mlp=64,
        vocab=128,
        latent_dim=24,
        rope_dim=8,
    ),
    # All that DeepSeek-V3.2 has, tiny.
    ModelShape(
        "tiny-dsa",
        "mla",
        layers=3,
        hidden=32,
        heads=4,
        head_dim=8,
        mlp=64,
        vocab=128,
        latent_dim=24,
        rope_dim=8,
        query_rank=16,
        value_head_dim=12,
        index_heads=16,
        index_dim=16,
        index_top_k=12,
        experts=8,
        experts_per_token=3,
        shared_experts=1,
        expert_mlp=16,
        dense_layers=1,
        expert_groups=4,
        groups_per_token=2,
        routed_scaling=2.5,
        yarn=Yarn(4.0, 64, mscale=1.0, mscale_all_dim=1.0),
    ),
)

_QWEN_7B = ModelShape(
    "qwen2.5-7b",
    "gqa",
    layers=28,
    hidden=3584,
    heads=28,
    head_dim=128,
    mlp=18944,
    vocab=152064,
    kv_heads=4,
    kv_dtype="bf16",
    qkv_bias=True,
    rope_base=1_000_000.0,
)

# The paper's models (its section 7.1 and A.2).
_QWEN_32B = replace(_QWEN_7B, name="qwen2.5-32b", layers=64, hidden=5120, heads=40, mlp=27648, kv_heads=8)
_DS_660B = ModelShape(  # DeepSeek-V3.2, as published
    "ds-660b",
    "mla",
    layers=61,
    hidden=7168,
    heads=128,
    head_dim=128,
    mlp=18432,
    vocab=129280,
    latent_dim=512,
    rope_dim=64,
    query_rank=1536,
    value_head_dim=128,
    index_heads=64,
    index_dim=128,
    index_top_k=2048,
    experts=256,
    experts_per_token=8,
    shared_experts=1,
    expert_mlp=2048,
    dense_layers=3,
    expert_groups=8,
    groups_per_token=4,
    routed_scaling=2.5,
    kv_dtype="fp8",
    yarn=Yarn(40.0, 4096, mscale=1.0, mscale_all_dim=1.0),
)
_DS_27B = ModelShape(  # internal to the paper's authors: what they do not state (from value_head_dim on) is chosen
    "ds-27b",
    "mla",
    layers=30,
    hidden=2560,
    heads=32,
    head_dim=128,
    mlp=12288,
    vocab=129280,
    index_heads=32,
    index_dim=64,
    index_top_k=1024,
    experts=72,
    experts_per_token=6,
    shared_experts=2,
    expert_mlp=1536,
    dense_layers=1,
    kv_dtype="fp8",
    value_head_dim=128,
    latent_dim=512,
    rope_dim=64,
    routed_scaling=2.5,
)

# DeepSeek-V3.2 for one 80 GB GPU: 14 billion weights, 29 GB. A quarter of its width (hidden, heads, query rank, all
# MLPs, index heads) and a third of its depth; experts, groups, top-k and all that a token's cache entry consists of are
# as published, so a Layer Block has the bytes that the full model's has in bf16.
_DS_SMALL = replace(
    _DS_660B,
    name="deepseek-v3.2-small",
    layers=20,
    dense_layers=1,
    hidden=1792,
    heads=32,
    query_rank=384,
    mlp=4608,
    expert_mlp=512,
    index_heads=16,
    kv_dtype="bf16",
)

MODELS = {shape.name: shape for shape in (*_FOR_CPUS, _DS_660B, _DS_27B, _QWEN_32B, _QWEN_7B, _DS_SMALL)}
