"""An RDMA device, opened twice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dualpath.engine.rdma.nic import Nic
from dualpath.engine.rdma.settings import RdmaSettings


@pytest.fixture
def nics() -> Iterator[tuple[Nic, Nic]]:
    """As two processes would have."""
    pair = Nic(RdmaSettings(timeout_s=20)), Nic(RdmaSettings(timeout_s=20))
    yield pair
    for nic in pair:
        nic.close()
