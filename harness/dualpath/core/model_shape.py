"""The numbers of a model that decide how many bytes its KV cache has and what its forward pass costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder-only transformer. `gqa` caches keys and values per KV head; `mla` caches one latent and one
    rotary key shared by all heads (DeepSeek-V2, arXiv 2405.04434)."""

    name: str
    attention: Literal["gqa", "mla"]
    layers: int
    hidden: int
    heads: int
    head_dim: int
    mlp: int
    vocab: int
    kv_heads: int = 0  # gqa only
    latent_dim: int = 0  # mla only: cached latent
    rope_dim: int = 0  # mla only: cached rotary key
    kv_element_bytes: int = 4
    qkv_bias: bool = False  # gqa only
    rope_base: float = 10_000.0
    norm_eps: float = 1e-6
    stated_kv_layer_bytes: int = 0  # where a cache's layout is more than its elements; such models are simulated only

    @property
    def query_dim(self) -> int:
        """Elements of a query head."""
        return self.head_dim + (self.rope_dim if self.attention == "mla" else 0)

    @property
    def kv_elements(self) -> int:
        """KV elements of one token in one layer."""
        if self.attention == "gqa":
            return 2 * self.kv_heads * self.head_dim
        return self.latent_dim + self.rope_dim

    @property
    def kv_layer_bytes(self) -> int:
        """Bytes of one token's KV in one layer."""
        return self.stated_kv_layer_bytes or self.kv_elements * self.kv_element_bytes

    @property
    def kv_bytes(self) -> int:
        """Bytes of one token's KV in all layers."""
        return self.kv_layer_bytes * self.layers


# Small enough for a CPU: much KV per token beside little arithmetic, as on the paper's hardware.
MODELS = {
    shape.name: shape
    for shape in (
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
    )
} | {
    # The paper's models (its section 7.1 and A.2). DeepSeek caches FP8: 512 latent values with 16 bytes of scales, 64
    # rotary values of two bytes, and the indexer's key with a scale of four bytes.
    shape.name: shape
    for shape in (
        ModelShape(
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
            kv_element_bytes=1,
            stated_kv_layer_bytes=512 + 16 + 128 + 128 + 4,
        ),
        ModelShape(
            "ds-27b",
            "mla",
            layers=30,
            hidden=2560,
            heads=32,
            head_dim=128,
            mlp=12288,
            vocab=129280,
            latent_dim=512,
            rope_dim=64,
            kv_element_bytes=1,
            stated_kv_layer_bytes=512 + 16 + 128 + 64 + 4,
        ),
        ModelShape(
            "qwen2.5-32b",
            "gqa",
            layers=64,
            hidden=5120,
            heads=40,
            head_dim=128,
            mlp=27648,
            vocab=152064,
            kv_heads=8,
            kv_element_bytes=2,
            stated_kv_layer_bytes=2 * 8 * 128 * 2,
        ),
    )
}
