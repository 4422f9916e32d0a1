"""Weights of one process used by another, in the same GPU memory."""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec
import pytest
import torch
from dualpath.core.errors import WorkerError
from dualpath.core.known_models import MODELS
from dualpath.engine.models.random_weights import random_weights
from dualpath.engine.models.weights import Weights
from dualpath.engine.shared_weights import new_board, shared_weights

OTHER = """
import os, sys, msgspec, torch
from dualpath.engine.messages import WeightsShare
from dualpath.engine.shared_weights import shared_weights
share = msgspec.json.decode(sys.argv[1], type=WeightsShare)
weights = shared_weights(share, os.getppid(), None)
first, second = weights.layers[:2]
print(float(weights.head.double().sum()), float(second.down.double().sum()), first.key_up is None)
weights.final_norm.mul_(3)
torch.cuda.synchronize()
"""


@pytest.mark.gpu
def test_another_process_has_the_same_memory() -> None:
    weights = random_weights(MODELS["tiny-gqa"], 3, "cuda", torch.float32)
    share = new_board(1)
    shared_weights(share, os.getpid(), lambda: weights)
    other = msgspec.json.encode(msgspec.structs.replace(share, others=0)).decode()
    found = subprocess.run(
        [sys.executable, "-c", OTHER, other],
        pass_fds=[share.board_fd, share.ready_fd],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == [
        str(float(weights.head.double().sum())),
        str(float(weights.layers[1].down.double().sum())),
        "True",
    ]
    assert weights.final_norm.tolist() == [3.0] * len(weights.final_norm), "what it wrote is seen here"


def test_nobody_waits_for_who_is_gone() -> None:
    share = msgspec.structs.replace(new_board(1), others=0)
    with pytest.raises(WorkerError, match="gone"):
        shared_weights(share, os.getppid() + 1, never)


def test_who_shares_with_nobody_loads() -> None:
    weights = random_weights(MODELS["tiny-gqa"], 0, "cpu", torch.float32)
    assert shared_weights(None, 0, lambda: weights) is weights


def never() -> Weights:
    raise AssertionError("it has none to load")
