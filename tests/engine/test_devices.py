"""Which engine sees which GPU, and which engines share weights. The GPUs need not be there."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch
from dualpath.engine.devices import gpu_names, visible_device
from dualpath.engine.host import _weights_shares


@pytest.mark.parametrize(
    ("num", "visible", "expected"),
    [
        (0, "", [None, None, None]),
        (1, "", ["0", "0", "0"]),
        (2, "", ["0", "1", "0"]),
        (2, "5,3", ["5", "3", "5"]),
        (1, "GPU-8f1c", ["GPU-8f1c"] * 3),
    ],
)
def test_engines_take_gpus_in_turn(
    monkeypatch: pytest.MonkeyPatch, num: int, visible: str, expected: list[str | None]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [visible_device(number) for number in range(3)] == expected


def test_a_run_can_say_which_gpus_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(name=f"GPU {device}"))
    assert gpu_names() == ["GPU 0", "GPU 1"]


def test_the_first_engine_of_each_gpu_has_the_weights_the_others_wait_for_it() -> None:
    shares = _weights_shares({3: "0", 4: "1", 5: "0", 6: "2", 7: "0", 8: "1"})
    assert {engine: share.others for engine, share in shares.items()} == {3: 2, 5: 0, 7: 0, 4: 1, 8: 0}
    assert len({share.board_fd for share in shares.values()}) == 2
    assert shares[3].board_fd == shares[5].board_fd == shares[7].board_fd
    for fd in {fd for share in shares.values() for fd in (share.board_fd, share.ready_fd)}:
        os.close(fd)


def test_on_a_cpu_every_engine_has_its_own() -> None:
    assert _weights_shares({0: None, 1: None}) == {}
