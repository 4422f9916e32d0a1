"""Tiny random DeepSeeks, written by `transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip(
    "transformers", reason="transformers writes the checkpoints: pip install transformers"
)
VOCAB = 300
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 0.8,
    "original_max_position_embeddings": 128,
}
_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 64,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_routed_experts": 12,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 24,
    "q_lora_rank": 20,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "max_position_embeddings": 512,
}
_INDEXER = {"index_topk": 16, "index_head_dim": 16, "index_n_heads": 16}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "v3": ("V3", {}),
    "v3 without query rank": ("V3", {"q_lora_rank": None, "n_shared_experts": 1}),
    "v3 with one group": ("V3", {"n_group": 1, "topk_group": 1, "norm_topk_prob": False}),
    "v3 with yarn": ("V3", {"rope_parameters": YARN}),
    "v3 in halves": ("V3", {"rope_interleave": False}),
    "v3.2": ("V32", _INDEXER),
    "v3.2 with yarn": ("V32", {**_INDEXER, "rope_parameters": YARN, "tie_word_embeddings": True}),
}


def write(folder: Path, name: str, dtype: torch.dtype = torch.float32, shard: str = "50GB", **values: Any) -> Any:
    """The model, and its folder. Weights such that logits are not near zero, and scores of experts and of the indexer
    far apart."""
    torch.manual_seed(0)
    kind, own = CONFIGS[name]
    config = getattr(transformers, f"Deepseek{kind}Config")(**{**_SIZES, **own, **values})
    model = getattr(transformers, f"Deepseek{kind}ForCausalLM")(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.3)
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith("e_score_correction_bias"):
                torch.nn.init.normal_(buffer, 0.0, 0.2)
    model.save_pretrained(folder, max_shard_size=shard)
    return model
