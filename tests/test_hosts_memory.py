"""What engines take of a GPU's memory, before any is started. The GPUs need not be there."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from dualpath.cluster_file import load_cluster
from dualpath.core.errors import ClusterError
from dualpath.hosts import check_memory

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Properties:
    total_memory: int


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """gpus(number, bytes of each)"""

    def there_are(num: int, num_bytes: int) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: num)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties(num_bytes))

    return there_are


def test_a_gpu_that_is_too_small_is_told_with_what_it_would_take(gpus: Callable[[int, int], None]) -> None:
    cluster = load_cluster(ROOT / "bench" / "clusters" / "h200-1p1d.toml").cluster
    small = replace(cluster, memory=replace(cluster.memory, prefill_buffer_bytes=1 << 20, decode_buffer_bytes=1 << 20))
    gpus(1, 40 << 30)
    says = "GPU 0 has 40.0 GiB, and 2 engines on it take 47.2: 14.2 for the weights of qwen2.5-7b, 30.0 for KV"
    with pytest.raises(ClusterError, match=re.escape(says)):
        check_memory(small, [0, 1])
    gpus(1, 48 << 30)
    check_memory(small, [0, 1])
    gpus(2, 40 << 30)  # one engine on each
    check_memory(small, [0, 1])
    gpus(1, 40 << 30)
    check_memory(small, [1])  # the other is elsewhere
