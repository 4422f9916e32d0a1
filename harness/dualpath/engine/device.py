"""What engines compute on."""

from __future__ import annotations

import torch


def best_device() -> str:
    """On this machine."""
    return "cuda" if torch.cuda.is_available() else "cpu"
