"""What engines compute on: the GPUs of this host in turn, or its CPU."""

from __future__ import annotations

import os

import torch

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def best_device() -> str:
    """Of this process."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def visible_device(number: int) -> str | None:
    """The one GPU that an engine is to see: the host's number-th engine, in turn; None: it computes on the CPU. Does
    not begin to use a GPU."""
    num = torch.cuda.device_count()
    if not num:
        return None
    visible = [name for name in os.environ.get(_VISIBLE, "").split(",") if name] or [str(each) for each in range(num)]
    return visible[number % num]


def gpu_names() -> list[str]:
    """Of the GPUs that engines of this host take in turn."""
    return [torch.cuda.get_device_properties(device).name for device in range(torch.cuda.device_count())]


def shown(device: str) -> dict[str, str]:
    """Environment of a process that is to see one GPU only."""
    return {_VISIBLE: device}
