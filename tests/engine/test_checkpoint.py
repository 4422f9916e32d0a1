"""Checkpoints of Qwen2, beside `transformers` that wrote them: the same logits, however the cache is cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import change_config, change_tensors
from cut_cache import continued, logits, random_cuts
from dualpath.core.errors import ModelError
from dualpath.engine.models.checkpoint import check_weights, load_model, load_weights
from dualpath.engine.models.checkpoint_config import read_config
from torch import Tensor

transformers = pytest.importorskip(
    "transformers", reason="transformers writes the checkpoints: pip install transformers"
)
TOKENS, PROMPT = 70, 40
CONFIGS: dict[str, dict[str, Any]] = {
    "grouped": {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 48},
    "tied": {"num_attention_heads": 4, "num_key_value_heads": 1, "hidden_size": 32, "tie_word_embeddings": True},
    "wide base": {"num_attention_heads": 2, "num_key_value_heads": 2, "hidden_size": 32, "rope_theta": 1_000_000.0},
}


def write(folder: Path, dtype: torch.dtype = torch.float32, shard: str = "50GB", **values: Any) -> Any:
    """A tiny random Qwen2 and its folder."""
    torch.manual_seed(0)
    chosen = {"vocab_size": 300, "intermediate_size": 64, "num_hidden_layers": 3, "max_position_embeddings": 512}
    config = transformers.Qwen2Config(**{**chosen, **CONFIGS["grouped"], **values})
    config.initializer_range = 0.3  # else all logits are near zero
    model = transformers.Qwen2ForCausalLM(config).to(dtype).eval()
    for name, parameter in model.named_parameters():
        if name.endswith((".bias", "norm.weight")):
            torch.nn.init.normal_(parameter, 0.5, 0.3)
    model.save_pretrained(folder, max_shard_size=shard)
    return model


def tokens() -> Tensor:
    return torch.randint(0, 300, (TOKENS,), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", range(3))
def test_logits_are_those_of_transformers_however_the_cache_is_cut(tmp_path: Path, name: str, seed: int) -> None:
    theirs = write(tmp_path, **CONFIGS[name])
    config = read_config(tmp_path)
    ours = load_model(config.shape, 0, str(tmp_path), "cpu")
    with torch.inference_mode():
        expected = theirs(tokens()[None]).logits[0]
        found = logits(ours, tokens(), random_cuts(seed, PROMPT, TOKENS))
    assert expected.abs().max() > 1, "the model says something"
    assert (found - expected).abs().max() <= 1e-4
    assert torch.equal(found.argmax(1), expected.argmax(1))


def test_greedy_continuations_are_those_of_transformers(tmp_path: Path) -> None:
    theirs = write(tmp_path)
    ours = load_model(read_config(tmp_path).shape, 0, str(tmp_path), "cpu")
    with torch.inference_mode():
        expected = theirs.generate(tokens()[None, :PROMPT], max_new_tokens=24, do_sample=False, eos_token_id=None)[0]
        found = continued(ours, tokens()[:PROMPT], 24)
    assert found == expected.tolist()


def test_in_bfloat16_logits_agree_to_its_precision(tmp_path: Path) -> None:
    """Both round after every product, not in the same places: a few steps of 2^-8 of the largest logit."""
    theirs = write(tmp_path, torch.bfloat16)
    config = read_config(tmp_path)
    assert (config.dtype, config.shape.kv_dtype) == ("bfloat16", "bf16")
    ours = load_model(config.shape, 0, str(tmp_path), "cpu")
    with torch.inference_mode():
        expected = theirs(tokens()[None]).logits[0]
        found = logits(ours, tokens(), [PROMPT, TOKENS])
    assert found.dtype == torch.bfloat16
    assert (found - expected).abs().max() <= 8 * 2**-8 * expected.abs().max()


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    write(tmp_path / "whole")
    write(tmp_path / "shards", shard="40KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    whole, shards = (load_weights(tmp_path / name, "cpu") for name in ("whole", "shards"))
    assert torch.equal(whole.head, shards.head)
    assert all(torch.equal(one.project, other.project) for one, other in zip(whole.layers, shards.layers, strict=True))


def test_kv_bytes_are_the_models(tmp_path: Path) -> None:
    write(tmp_path, torch.bfloat16)
    shape = read_config(tmp_path).shape
    assert shape.kv_layer_bytes == 2 * 2 * 12 * 2, "keys and values, two KV heads of 12, two bytes each"


GATE = "model.layers.1.mlp.gate_proj.weight"


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (change_config(architectures=["MambaForCausalLM"]), "architecture MambaForCausalLM; known: Qwen2ForCausalLM"),
        (change_config(dtype="int8", torch_dtype="int8"), "dtype 'int8'; known: float32, bfloat16, float16"),
        (change_config(use_sliding_window=True), "use_sliding_window True; only False is known"),
        (change_config(rope_parameters={"rope_type": "yarn", "factor": 4.0}), "only the plain one is known"),
        (change_config(hidden_act="gelu"), "hidden_act 'gelu'; only 'silu' is known"),
        (change_config(num_attention_heads=None), "config.json: TypeError"),
        (
            change_config(intermediate_size=80),
            r"is F32 \[48, 64\]; config.json makes it F32 \[48, 80\]",
        ),
        (change_tensors(lambda found: found.pop(GATE)), f"the checkpoint misses {GATE}"),  # type: ignore[arg-type, return-value]
        (change_tensors(lambda found: found.update(more=torch.zeros(1))), "has beside what is known more"),
        (change_tensors(lambda found: found.update({GATE: found[GATE].half()})), f"{GATE} is F16"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"nothing"), "model.safetensors: cannot be read"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors: cannot be read"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json: not an object"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, harm: Callable[[Path], None], message: str) -> None:
    write(tmp_path)
    harm(tmp_path)
    with pytest.raises(ModelError, match=message):
        check_weights(tmp_path)
