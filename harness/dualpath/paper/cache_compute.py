"""Table 1 in closed form: KV bytes to load over FLOPs to compute, for a turn that appends 429 tokens (section 2.1).

    ratio = kv_bytes x context / (429 x (2 x active parameters + attention(context)))

Attention is 4 x heads x head_dim x layers per (new token, attended token) for grouped queries, and 2 x heads x (576 +
512) x layers for the absorbed form of multi-head latent attention, of which V3.2's sparse attention attends to 2,048
tokens only, chosen by an indexer that looks at all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

APPEND_TOKENS = 429
CONTEXTS = {"16k": 16 * 1024, "64k": 64 * 1024}
_ABSORBED = 2 * 128 * (576 + 512)  # multiply-adds twice: 128 heads, scores over 576 and values over 512 dimensions


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a model decides the ratio. FLOPs per new token and layer stack."""

    kv_bytes: int  # to load, per token of the context
    active_parameters: float
    flops_per_context: float  # of one new token, per token that it may attend to
    flops_of_attended: float = 0.0  # of one new token, whatever the context: sparse attention's chosen tokens

    def gb_per_pflop(self, context_tokens: int) -> float:
        per_token = 2 * self.active_parameters + self.flops_per_context * context_tokens + self.flops_of_attended
        return (self.kv_bytes * context_tokens / 1e9) / (APPEND_TOKENS * per_token / 1e15)


SHAPES = {
    # 64 layers, 8 KV heads of 128, two bytes; 40 query heads
    "Qwen2.5-32B": Shape(64 * 2 * 8 * 128 * 2, 32.5e9, 4 * 40 * 128 * 64),
    # of 36 layers the 18 with full attention, 8 KV heads of 64, one byte; 64 query heads
    "GPT-OSS-120B": Shape(18 * 2 * 8 * 64, 5.1e9, 4 * 64 * 64 * 18),
    # 94 layers, 4 KV heads of 128, one byte; 64 query heads
    "Qwen3-235B-A22B": Shape(94 * 2 * 4 * 128, 22e9, 4 * 64 * 128 * 94),
    # 61 layers of 656 bytes; the indexer (64 heads of 128) looks at the context, its keys are not counted as loaded
    "DeepSeek-V3.2": Shape(61 * 656, 37e9, 2 * 64 * 128 * 61, _ABSORBED * 61 * 2048),
    "DeepSeek-V3": Shape(61 * 656, 37e9, _ABSORBED * 61),
}
