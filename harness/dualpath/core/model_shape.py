"""The numbers of a model that decide how many bytes its KV cache has and what its forward pass costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

KvDtype: TypeAlias = Literal["fp32", "bf16", "fp16", "fp8"]
_ELEMENT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1}
_SCALE_BYTES = 4  # of FP8 values: one scale for each _SCALED of a latent, one for an indexer's key
_SCALED = 128


@dataclass(frozen=True, slots=True)
class Yarn:
    """How rotary embedding is stretched to contexts longer than a model was first trained on (YaRN, arXiv
    2309.00071); named as in a checkpoint's config.json."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 0.0
    mscale_all_dim: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder-only transformer. `gqa` caches keys and values per KV head; `mla` caches one latent and one
    rotary key shared by all heads (DeepSeek-V2, arXiv 2405.04434), and the indexer's key where attention is sparse
    (DeepSeek-V3.2-Exp). Feed-forward layers are dense, or, after the leading dense ones, experts as in DeepSeek-V3
    (arXiv 2412.19437)."""

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
    query_rank: int = 0  # mla only: queries come from a latent of their own; 0: from the hidden state
    value_head_dim: int = 0  # mla only; 0: as head_dim
    index_heads: int = 0  # sparse attention's indexer; 0: none, every token attends to its whole context
    index_dim: int = 0
    index_top_k: int = 0  # tokens that a token attends to
    experts: int = 0  # routed ones; 0: all layers are dense
    experts_per_token: int = 0
    shared_experts: int = 0
    expert_mlp: int = 0
    dense_layers: int = 0  # leading ones
    expert_groups: int = 1
    groups_per_token: int = 1
    routed_scaling: float = 1.0
    normalised_routing: bool = True  # the weights of a token's experts sum to one before they are scaled
    kv_dtype: KvDtype = "fp32"
    qkv_bias: bool = False  # gqa only
    rope_base: float = 10_000.0
    yarn: Yarn | None = None
    norm_eps: float = 1e-6

    @property
    def query_dim(self) -> int:
        """Elements of a query head."""
        return self.head_dim + (self.rope_dim if self.attention == "mla" else 0)

    @property
    def value_dim(self) -> int:
        """Elements of a head's output."""
        return self.value_head_dim or self.head_dim

    @property
    def element_bytes(self) -> int:
        """Bytes of an element of KV, and of a weight."""
        return _ELEMENT_BYTES[self.kv_dtype]

    @property
    def kv_elements(self) -> int:
        """KV elements of one token in one layer."""
        if self.attention == "gqa":
            return 2 * self.kv_heads * self.head_dim
        return self.latent_dim + self.rope_dim + self.index_dim

    @property
    def kv_layer_bytes(self) -> int:
        """Bytes of one token's KV in one layer. Latent attention's FP8 is DeepSeek's published layout: scales beside
        the latent and beside the indexer's key, the rotary key in two bytes an element."""
        if self.attention == "gqa" or self.kv_dtype != "fp8":
            return self.kv_elements * self.element_bytes
        latent = self.latent_dim + _SCALE_BYTES * -(-self.latent_dim // _SCALED)
        index_key = self.index_dim + _SCALE_BYTES if self.index_dim else 0
        return latent + 2 * self.rope_dim + index_key

    @property
    def kv_bytes(self) -> int:
        """Bytes of one token's KV in all layers."""
        return self.kv_layer_bytes * self.layers

    def is_dense(self, layer: int) -> bool:
        """Whether a layer's feed-forward part has no experts."""
        return not self.experts or layer < self.dense_layers
