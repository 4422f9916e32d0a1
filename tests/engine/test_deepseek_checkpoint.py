"""Checkpoints of DeepSeek-V3 and V3.2 beside `transformers` itself: the same logits, however the cache is cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoint_files import change_config, change_tensors
from cut_cache import continued, logits, random_cuts
from dualpath.core.errors import ModelError
from dualpath.engine.models.checkpoint import check_weights, load_model
from dualpath.engine.models.checkpoint_config import read_config
from dualpath.engine.models.model import Model
from tiny_deepseek import CONFIGS, VOCAB, write
from torch import Tensor

TOKENS, PROMPT = 70, 40


def tokens() -> Tensor:
    return torch.randint(0, VOCAB, (TOKENS,), generator=torch.Generator().manual_seed(1))


def loaded(folder: Path) -> Model:
    return load_model(read_config(folder).shape, 0, str(folder), "cpu")


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_transformers_however_the_cache_is_cut(tmp_path: Path, name: str) -> None:
    theirs = write(tmp_path, name)
    ours = loaded(tmp_path)
    with torch.inference_mode():
        expected = theirs(tokens()[None]).logits[0]
        assert expected.abs().max() > 1, "the model says something"
        for seed in range(3):
            found = logits(ours, tokens(), random_cuts(seed, PROMPT, TOKENS))
            assert (found - expected).abs().max() <= 1e-4
            assert torch.equal(found.argmax(1), expected.argmax(1))


@pytest.mark.parametrize("name", ["v3 with yarn", "v3.2"])
def test_greedy_continuations_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    theirs = write(tmp_path, name)
    ours = loaded(tmp_path)
    with torch.inference_mode():
        expected = theirs.generate(tokens()[None, :PROMPT], max_new_tokens=24, do_sample=False, eos_token_id=None)[0]
        found = continued(ours, tokens()[:PROMPT], 24)
    assert found == expected.tolist()


def test_most_of_the_context_is_not_selected_and_that_matters(tmp_path: Path) -> None:
    write(tmp_path, "v3.2")
    sparse = loaded(tmp_path)
    write(tmp_path, "v3.2", index_topk=TOKENS)
    dense = loaded(tmp_path)
    with torch.inference_mode():
        first, second = (logits(model, tokens(), [TOKENS]) for model in (sparse, dense))
    torch.testing.assert_close(first[:16], second[:16], rtol=0, atol=1e-4)
    assert (first[16:] - second[16:]).abs().amax(dim=1).min() > 1e-2


EVERY_EXPERT = {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 12}


@pytest.mark.parametrize(("name", "choices"), [("v3", EVERY_EXPERT), ("v3.2", {**EVERY_EXPERT, "index_topk": TOKENS})])
def test_in_bfloat16_logits_agree_to_its_precision(tmp_path: Path, name: str, choices: dict[str, int]) -> None:
    """Where nothing is chosen: both round after every product, not in the same places, by an eighth of
    the largest logit at most."""
    theirs = write(tmp_path, name, torch.bfloat16, **choices)
    ours = loaded(tmp_path)
    assert (ours.dtype, ours.shape.kv_dtype) == (torch.bfloat16, "bf16")
    with torch.inference_mode():
        expected = theirs(tokens()[None]).logits[0]
        found = logits(ours, tokens(), [PROMPT, TOKENS])
    assert found.dtype == torch.bfloat16
    assert (found - expected).abs().max() <= 32 * 2**-8 * expected.abs().max()


@pytest.mark.parametrize("name", ["v3", "v3.2"])
def test_in_bfloat16_choices_are_as_good_as_those_of_transformers(tmp_path: Path, name: str) -> None:
    """Rounding sends some tokens to other experts, and lets them select other tokens, in either. So both are compared
    with the same weights in float32: the median token is no farther from it here than there, but for a quarter."""
    theirs = write(tmp_path, name, torch.bfloat16)
    ours = loaded(tmp_path)
    with torch.inference_mode():
        rounded = theirs(tokens()[None]).logits[0]
        found = logits(ours, tokens(), [PROMPT, TOKENS])
        exact = theirs.float()(tokens()[None]).logits[0]
    our_error, their_error = ((each - exact).abs().amax(dim=1).median() for each in (found, rounded))
    assert our_error <= 1.25 * their_error


@pytest.mark.parametrize("name", CONFIGS)
def test_random_weights_are_laid_out_as_a_checkpoints(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    read, drawn = loaded(tmp_path).weights, Model(read_config(tmp_path).shape).weights
    for one, other in zip(read.layers, drawn.layers, strict=True):
        for part in ("indexer", "experts", None):
            first, second = (each if part is None else getattr(each, part) for each in (one, other))
            assert sizes(first) == sizes(second)


def sizes(weights: object) -> dict[str, torch.Size]:
    """Of the tensors that it holds."""
    found = {name: getattr(weights, name) for name in getattr(weights, "__slots__", ())}
    return {name: value.shape for name, value in found.items() if isinstance(value, Tensor)}


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    write(tmp_path / "whole", "v3.2")
    write(tmp_path / "shards", "v3.2", shard="40KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert_same_logits(tmp_path / "whole", tmp_path / "shards")


def test_experts_may_be_one_tensor(tmp_path: Path) -> None:
    theirs = write(tmp_path / "apart", "v3.2")
    theirs.save_pretrained(tmp_path / "fused", save_original_format=False)
    assert_same_logits(tmp_path / "apart", tmp_path / "fused")
    change_config(moe_intermediate_size=20, n_shared_experts=1)(tmp_path / "fused")
    with pytest.raises(ModelError, match=r"experts\.down_proj is F32 \[12, 48, 16\]; .* F32 \[12, 48, 20\]"):
        check_weights(tmp_path / "fused")


def assert_same_logits(one: Path, other: Path) -> None:
    with torch.inference_mode():
        assert torch.equal(*(logits(loaded(folder), tokens(), [TOKENS]) for folder in (one, other)))


def test_the_cache_entry_has_the_indexers_key(tmp_path: Path) -> None:
    write(tmp_path, "v3.2", torch.bfloat16)
    assert read_config(tmp_path).shape.kv_layer_bytes == (24 + 8 + 16) * 2


def test_a_router_in_float32_is_read_in_a_checkpoint_of_bfloat16(tmp_path: Path) -> None:
    """As `from_pretrained` keeps it, and as published."""
    write(tmp_path, "v3", torch.bfloat16)
    change_tensors(lambda found: found.update({BIAS: found[BIAS].float()}))(tmp_path)
    check_weights(tmp_path)


def test_layers_that_predict_more_tokens_at_once_are_not_read(tmp_path: Path) -> None:
    """The published checkpoints have one, after the model's own."""
    write(tmp_path, "v3")
    change_tensors(lambda found: found.update({"model.layers.3.eh_proj.weight": torch.zeros(2, 2)}))(tmp_path)
    loaded(tmp_path)
    change_config(num_nextn_predict_layers=0)(tmp_path)
    with pytest.raises(ModelError, match=r"has beside what is known model\.layers\.3\.eh_proj\.weight"):
        check_weights(tmp_path)


def test_yarn_as_published_is_read(tmp_path: Path) -> None:
    """config.json as DeepSeek publishes it: rope_scaling with a type, rope_theta beside it."""
    theirs = write(tmp_path, "v3.2 with yarn")
    as_written = read_config(tmp_path).shape.yarn
    rope = {**theirs.config.rope_parameters}
    base, rope["type"] = rope.pop("rope_theta"), rope.pop("rope_type")
    change_config(rope_parameters=None, rope_scaling=rope, rope_theta=base)(tmp_path)
    assert read_config(tmp_path).shape.yarn == as_written
    assert as_written is not None


@pytest.mark.parametrize("kind", ["indexed_attention", "deepseek_sparse_attention"])
def test_either_name_of_its_attention_is_read(tmp_path: Path, kind: str) -> None:
    write(tmp_path, "v3.2")
    before = read_config(tmp_path).shape
    change_config(layer_types=[kind] * 3)(tmp_path)
    assert replace(read_config(tmp_path).shape, name=before.name) == before


EXPERT, BIAS = "model.layers.1.mlp.experts.5.gate_proj.weight", "model.layers.1.mlp.gate.e_score_correction_bias"
SCALE = "model.layers.1.mlp.experts.5.gate_proj.weight_scale_inv"
Harm = Callable[[Path], None]


@pytest.mark.parametrize(
    ("name", "harm", "message"),
    [
        (
            "v3",
            change_config(quantization_config={"quant_method": "fp8"}),
            "quantization_config 'fp8': weights",
        ),
        ("v3", change_tensors(lambda found: found.update({SCALE: torch.ones(1)})), f"has {SCALE}: FP8"),
        ("v3", change_config(attention_bias=True), "attention_bias True; only False is known"),
        ("v3", change_config(scoring_func="softmax"), "scoring_func 'softmax'; only 'sigmoid' is known"),
        ("v3", change_config(topk_method="greedy"), "topk_method 'greedy'; only 'noaux_tc' is known"),
        ("v3", change_config(moe_layer_freq=2), "moe_layer_freq 2; only 1 is known"),
        ("v3", change_config(hidden_act="gelu"), "hidden_act 'gelu'; only 'silu' is known"),
        ("v3", change_config(n_shared_experts=0), "n_shared_experts = 0"),
        ("v3", change_config(n_group=5), r"3 of 12 experts \(n_routed_experts\) in 2 of 5 groups"),
        ("v3", change_config(num_experts_per_tok=7), "7 of 12 experts"),
        ("v3", change_config(kv_lora_rank=None), "config.json: TypeError"),
        ("v3", change_config(rope_parameters={"rope_type": "llama3"}), "known: the plain one, and yarn"),
        ("v3 with yarn", change_config(rope_parameters={"rope_type": "yarn"}), "KeyError: 'factor'"),
        ("v3.2", change_config(q_lora_rank=None), "q_lora_rank is none"),
        ("v3.2", change_config(mlp_layer_types=["sparse", "dense", "dense"]), "mlp_layer_types"),
        ("v3.2", change_config(layer_types=["full_attention"] * 3), "layer_types 'full_attention'"),
        ("v3.2", change_config(index_topk=None), "config.json: TypeError"),
        (
            "v3.2",
            change_config(index_head_dim=8),
            r"indexer\.k_norm\.bias is F32 \[16\]; .* F32 \[8\]",
        ),
        ("v3.2", change_tensors(lambda found: found.pop(EXPERT)), f"misses {EXPERT}"),  # type: ignore[arg-type, return-value]
        ("v3.2", change_tensors(lambda found: found.update({EXPERT: found[EXPERT].half()})), f"{EXPERT} is F16"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, name: str, harm: Harm, message: str) -> None:
    write(tmp_path, name)
    harm(tmp_path)
    with pytest.raises(ModelError, match=message):
        check_weights(tmp_path)
