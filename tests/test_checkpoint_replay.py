"""A checkpoint served by the whole engine: every token is what `transformers` chooses, whichever way its KV came."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from dualpath.core.arms import ARMS
from dualpath.core.errors import ModelError
from dualpath.plan import Plan
from dualpath.replay import replay
from dualpath.results.run import Run
from dualpath.trace.reader import TraceFile
from dualpath.trace.select import select
from dualpath.trace.tokens import TokenStream

transformers = pytest.importorskip("transformers", reason="transformers writes the checkpoint")
pytestmark = pytest.mark.engine
VOCAB, AGENTS = 300, 4


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, Any]:
    """A tiny random Qwen2, its folder and itself."""
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    config.initializer_range = 0.3  # else all logits are near zero
    model = transformers.Qwen2ForCausalLM(config).eval()
    model.save_pretrained(tmp_path / "tiny-qwen2")
    return tmp_path / "tiny-qwen2", model


def chosen_by(model: Any, trace: Path) -> dict[tuple[str, int], int]:
    """Of every turn, the hash of the greedy choice after each token from the last of the prompt on."""
    found: dict[tuple[str, int], int] = {}
    with TraceFile.open(trace) as opened, torch.inference_mode():
        for trajectory in (each for family in select(opened, AGENTS, 0) for each in family):
            stream = TokenStream(trajectory, seed=0, vocab=VOCAB)
            for turn in range(len(trajectory.turns)):
                prompt, output = stream.prompt(turn), stream.output(turn)
                ids = torch.from_numpy(np.concatenate([prompt, output[:-1]]).astype(np.int64))
                choices = model(ids[None]).logits[0, len(prompt) - 1 :].argmax(1)
                found[trajectory.id, turn] = xxhash.xxh3_64_intdigest(choices.numpy().astype(np.int32).tobytes())
    return found


@pytest.mark.parametrize("arm", [arm.name for arm in ARMS.values() if arm.moves_kv])
def test_every_token_is_the_one_that_transformers_chooses(
    arm: str, checkpoint: tuple[Path, Any], trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    folder, model = checkpoint
    cluster = cluster_file(model=str(folder), decode=2)
    plan = Plan(trace=trace_file, cluster=cluster, arm=arm, output=tmp_path / "run", agents=AGENTS, verify=True)
    outcome = replay(plan, lambda ended, planned: None)
    assert outcome.status == "ok", outcome.reasons
    turns = Run.load(tmp_path / "run").turns.select("trajectory", "turn", "output_hash", "hit_tokens").collect()
    assert {(name, turn): value for name, turn, value, _ in turns.rows()} == chosen_by(model, trace_file)
    assert turns["hit_tokens"].sum() > 0


def test_a_checkpoint_that_is_incomplete_is_refused_before_the_run(
    checkpoint: tuple[Path, Any], trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    folder, _ = checkpoint
    (folder / "model.safetensors").unlink()
    plan = Plan(trace_file, cluster_file(model=str(folder)), "dualpath", tmp_path / "run", agents=1)
    with pytest.raises(ModelError, match=r"model\.safetensors: cannot be read"):
        replay(plan, lambda ended, planned: None)
    assert not (tmp_path / "run").exists()
