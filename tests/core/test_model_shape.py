"""Bytes of KV per token, against the paper's and the published ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
from dualpath.core.known_models import MODELS
from dualpath.core.model_shape import KvDtype, ModelShape


@pytest.mark.parametrize(
    ("name", "layer_bytes", "token_bytes"),
    [
        ("ds-660b", 788, 48_068),
        ("ds-27b", 724, 21_720),
        ("qwen2.5-32b", 4096, 262_144),
        ("qwen2.5-7b", 2048, 57_344),
    ],
)
def test_kv_bytes_of_the_papers_models(name: str, layer_bytes: int, token_bytes: int) -> None:
    assert (MODELS[name].kv_layer_bytes, MODELS[name].kv_bytes) == (layer_bytes, token_bytes)


def test_kv_bytes_of_deepseek_v3_which_has_no_indexer() -> None:
    v3 = replace(MODELS["ds-660b"], index_heads=0, index_dim=0, index_top_k=0)
    assert v3.kv_bytes == 656 * 61 == 40_016


def test_kv_bytes_of_qwen3_235b() -> None:
    shape = ModelShape(
        "qwen3-235b", "gqa", 94, 4096, heads=64, head_dim=128, mlp=12288, vocab=151936, kv_heads=4, kv_dtype="fp8"
    )
    assert shape.kv_bytes == 96_256


@pytest.mark.parametrize(("kv_dtype", "element_bytes"), [("fp32", 4), ("bf16", 2), ("fp16", 2)])
def test_whole_types_have_no_scales(kv_dtype: KvDtype, element_bytes: int) -> None:
    shape = replace(MODELS["ds-660b"], kv_dtype=kv_dtype)
    assert shape.kv_elements == 512 + 64 + 128
    assert shape.kv_layer_bytes == 704 * element_bytes


def test_a_latent_that_fills_its_last_scale_in_part_has_that_scale() -> None:
    shape = replace(MODELS["ds-660b"], latent_dim=129, index_dim=0)
    assert shape.kv_layer_bytes == 129 + 2 * 4 + 2 * 64


def test_the_small_deepseek_has_the_layer_blocks_of_the_full_one_in_bf16() -> None:
    small, full = MODELS["deepseek-v3.2-small"], replace(MODELS["ds-660b"], kv_dtype="bf16")
    assert small.kv_layer_bytes == full.kv_layer_bytes


def test_leading_layers_are_dense() -> None:
    assert [MODELS["tiny-dsa"].is_dense(layer) for layer in range(3)] == [True, False, False]
    assert all(MODELS["tiny-mla"].is_dense(layer) for layer in range(3))
