"""Where there is no RDMA: said at once, with what is missing. With a device: tests/rdma."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from dualpath.engine.rdma.nic import Nic
from dualpath.engine.rdma.settings import RdmaError, RdmaSettings
from dualpath.replay import Plan, replay

DEVICES = Path("/sys/class/infiniband")
pytestmark = pytest.mark.skipif(DEVICES.is_dir() and any(DEVICES.iterdir()), reason="this machine has RDMA")
REMEDY = r"(apt install python3-pyverbs|modprobe rdma_rxe).*--transport shared"


def test_without_a_device_it_says_what_to_do() -> None:
    with pytest.raises(RdmaError, match=REMEDY):
        Nic(RdmaSettings())


@pytest.mark.engine
def test_a_run_over_it_is_void_and_says_why(
    trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    plan = Plan(
        trace=trace_file,
        cluster=cluster_file(),
        arm="dualpath",
        output=tmp_path / "run",
        agents=2,
        network=RdmaSettings(),
    )
    outcome = replay(plan, lambda ended, planned: None)
    assert (outcome.status, outcome.turns) == ("void", 0)
    (reason,) = outcome.reasons
    assert reason.startswith("RdmaError: ")
    assert "--transport shared" in reason
