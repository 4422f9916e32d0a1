"""Values that tests of several parts share: a tiny cluster file and a tiny trace file."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from dualpath.core.trajectory import Trajectory, Turn
from dualpath.engine.rdma.port import open_port
from dualpath.engine.rdma.settings import RdmaError, RdmaSettings
from dualpath.trace.schema import TraceMeta
from dualpath.trace.writer import TraceWriter
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for what tests of several parts import
settings.register_profile("no deadline", deadline=None)  # how long an example takes is no matter of right or wrong
settings.load_profile("no deadline")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot be tried here, with the reason."""
    missing = {
        "gpu": "" if torch.cuda.is_available() else "no GPU here",
        "rdma": _no_rdma(),
        "nixl": "" if find_spec("nixl_cu12") else "no NIXL here: pip install nixl-cu12",
        "two_hosts": "" if os.environ.get("DUALPATH_GUEST") == "near" else "one host only: make test-rdma makes two",
    }
    for item in items:
        for mark, reason in missing.items():
            if reason and item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


def _no_rdma() -> str:
    """Why there is no RDMA here; empty where there is."""
    try:
        open_port(RdmaSettings()).context.close()
    except RdmaError as error:
        if "DUALPATH_GUEST" in os.environ:  # it was made for these tests: without a device they have failed
            raise
        return f"no RDMA here: {error}"
    return ""


_CLUSTER = """
model = "{model}"
block_tokens = 16
[prefill]
nodes = {prefill}
layerwise_layers = {layerwise_layers}
[decode]
nodes = {decode}
[links]
snic = "{snic}"
cnic = "{cnic}"
model_bytes_per_token = {model_bytes_per_token}
[memory]
prefill_buffer = "{prefill_buffer}"
decode_buffer = "8MiB"
prefill_hbm = "2MiB"
decode_hbm = "8MiB"
[scheduler]
read_tokens_per_s = 10000
prefill_tokens_per_s = 10000
attention_ns_per_pair = {attention_ns_per_pair}
quota_ms = 1
"""


@pytest.fixture
def cluster_file(tmp_path: Path) -> Callable[..., Path]:
    """Write a tiny cluster file; keywords replace its values."""

    def write(**values: object) -> Path:
        settings = {
            "model": "tiny-gqa",
            "prefill": 1,
            "layerwise_layers": 2,
            "decode": 1,
            "snic": "native",
            "cnic": "native",
            "model_bytes_per_token": 0,
            "prefill_buffer": "4MiB",
            "attention_ns_per_pair": 100,
        }
        path = tmp_path / "tiny.toml"
        path.write_text(_CLUSTER.format(**{**settings, **values}))
        return path

    return write


@pytest.fixture
def trace_file(tmp_path: Path) -> Path:
    """Four trajectories of three to five turns, contexts under 300 tokens; one cuts its context back."""
    rng = random.Random(7)
    path = tmp_path / "tiny.parquet"
    with TraceWriter(path, TraceMeta(source="test", licence="none")) as writer:
        for number in range(4):
            turns = [Turn(rng.randint(40, 90), rng.randint(1, 6))]
            turns += [Turn(rng.randint(1, 40), rng.randint(1, 20)) for _ in range(rng.randint(2, 4))]
            if number == 2:
                turns.append(Turn(append_tokens=9, generate_tokens=4, keep_tokens=37))
            writer.write(Trajectory(f"agent-{number}", tuple(turns)))
    return path
