"""A checkpoint served by the whole engine: every token is what `transformers` chooses, whichever way its KV came."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_deepseek
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


def write_qwen2(folder: Path) -> Any:
    """A tiny random Qwen2."""
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
    model.save_pretrained(folder)
    return model


def write(folder: Path, name: str) -> Any:
    return write_qwen2(folder) if name == "qwen2" else tiny_deepseek.write(folder, name)


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
@pytest.mark.parametrize("name", ["qwen2", "v3 with yarn", "v3.2"])
def test_every_token_is_the_one_that_transformers_chooses(
    name: str, arm: str, trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    model = write(tmp_path / "tiny", name)
    plan = Plan(trace_file, cluster_file(model="tiny", decode=2), arm, tmp_path / "run", agents=AGENTS, verify=True)
    assert found_by(plan) == chosen_by(model, trace_file)


@pytest.mark.parametrize("name", ["v3", "v3.2 with yarn"])
def test_every_token_is_the_one_that_transformers_chooses_in_deterministic_mode(
    name: str, trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    model = write(tmp_path / "tiny", name)
    cluster = cluster_file(model="tiny", decode=2)
    plan = Plan(
        trace_file, cluster, "dualpath", tmp_path / "run", agents=AGENTS, deterministic=True, store=tmp_path / "store"
    )
    assert found_by(plan) == chosen_by(model, trace_file)


def found_by(plan: Plan) -> dict[tuple[str, int], int]:
    """As `chosen_by`, by the engine, some of it from stored KV."""
    outcome = replay(plan, lambda ended, planned: None)
    assert outcome.status == "ok", outcome.reasons
    turns = Run.load(plan.output).turns.select("trajectory", "turn", "output_hash", "hit_tokens").collect()
    assert turns["hit_tokens"].sum() > 0
    return {(name, turn): value for name, turn, value, _ in turns.rows()}


def test_a_checkpoint_that_is_incomplete_is_refused_before_the_run(
    trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    write(tmp_path / "tiny", "qwen2")
    (tmp_path / "tiny" / "model.safetensors").unlink()
    plan = Plan(trace_file, cluster_file(model="tiny"), "dualpath", tmp_path / "run", agents=1)
    with pytest.raises(ModelError, match=r"model\.safetensors: cannot be read"):
        replay(plan, lambda ended, planned: None)
    assert not (tmp_path / "run").exists()
