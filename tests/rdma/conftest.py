"""These tests need an RDMA device; without one they are skipped, with the reason."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from dualpath.engine.rdma import Nic, RdmaError, RdmaSettings


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if "rdma" in item.path.parts]
    try:
        Nic(RdmaSettings()).close()
    except RdmaError as error:
        if "DUALPATH_GUEST" in os.environ:  # it was made for these tests: without a device they have failed
            raise
        for item in here:
            item.add_marker(pytest.mark.skip(reason=f"no RDMA here: {error}"))


@pytest.fixture
def nics() -> Iterator[tuple[Nic, Nic]]:
    """Two openings of the same device: as two processes would have."""
    pair = Nic(RdmaSettings(timeout_s=20)), Nic(RdmaSettings(timeout_s=20))
    yield pair
    for nic in pair:
        nic.close()
