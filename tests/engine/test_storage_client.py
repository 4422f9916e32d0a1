"""A storage process, real, on real files."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dualpath.cluster_file import load_cluster
from dualpath.core.cluster import Cluster
from dualpath.core.errors import WorkerError
from dualpath.engine.data_path import link_rates
from dualpath.engine.geometry import BlockGeometry, buffer_bytes, store_layout
from dualpath.engine.messages import BlockRef, BlocksRead, Failed, ReadBlocks
from dualpath.engine.pacer import Pacer
from dualpath.engine.storage_client import StorageClient
from dualpath.engine.store import SegmentWriter, create_store
from engine_setups import engine_setup

pytestmark = pytest.mark.engine
NUM = 6


class Storage:
    """A client, the buffer that it fills, and what it says."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.fd = os.memfd_create("buffer")
        os.ftruncate(self.fd, buffer_bytes(cluster, 0))
        self.said: queue.SimpleQueue[BlocksRead | Failed] = queue.SimpleQueue()
        self.failed: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
        self._pacer = Pacer.create(link_rates(cluster))
        shared = {"pacer_fd": self._pacer.fileno(), "buffer_fds": [self.fd, -1]}
        setup = engine_setup(cluster, engine=0, verify=True, store_directory=str(directory), **shared)
        self.client = StorageClient(setup)

    def spawn(self, name: str, body: Callable[[], None]) -> None:
        def run() -> None:
            try:
                body()
            except WorkerError as error:
                self.failed.put(error)

        threading.Thread(target=run, name=name, daemon=True).start()


@pytest.fixture
def stored(cluster_file: Callable[..., Path], tmp_path: Path) -> tuple[Cluster, Path, list[BlockRef]]:
    cluster, directory = load_cluster(cluster_file()).cluster, tmp_path / "store"
    layout = store_layout(cluster)
    create_store(directory, layout)
    with SegmentWriter(directory, layout, "engine-1") as writer:
        keys = [bytes([number]) * 16 for number in range(NUM)]
        blocks = (block(layout.block_bytes, number) for number in range(NUM))
        refs = [BlockRef(key, writer.append(key, content)) for key, content in zip(keys, blocks, strict=True)]
    return cluster, directory, refs


def block(num_bytes: int, number: int) -> bytes:
    return np.random.default_rng(number).integers(0, 256, num_bytes, dtype=np.uint8).tobytes()


def test_blocks_lie_in_their_slots_and_are_counted(stored: tuple[Cluster, Path, list[BlockRef]]) -> None:
    cluster, directory, refs = stored
    storage = Storage(cluster, directory)
    storage.client.ready(storage.said.put)
    storage.client.start(0, storage.spawn)
    slots = [5, 3, 0, 1, 4, 2]
    storage.client.submit(ReadBlocks(7, 0, refs[:4], slots[:4], 0, 1))
    storage.client.submit(ReadBlocks(8, 4, refs[4:], slots[4:], 0, 1))
    done = [storage.said.get(timeout=60) for _ in range(2)]
    assert {each.request for each in done if isinstance(each, BlocksRead)} == {7, 8}
    geometry = BlockGeometry.of(cluster)
    for number, slot in enumerate(slots):
        found = os.pread(storage.fd, geometry.block_bytes, geometry.slot_offset(slot))
        assert found == block(geometry.block_bytes, number)
    summary = storage.client.summary()
    assert sum(row.bytes for row in summary.links if row.resource == "snic") == NUM * geometry.block_bytes
    assert {(each.request, each.block) for each in summary.blocks} == {(7, at) for at in range(4)} | {(8, 4), (8, 5)}
    storage.client.close()


def test_a_corrupt_block_and_a_missing_store_are_told(stored: tuple[Cluster, Path, list[BlockRef]]) -> None:
    cluster, directory, refs = stored
    segment = directory / "engine-1.seg"
    data = bytearray(segment.read_bytes())
    data[refs[2].location.offset] ^= 1
    segment.write_bytes(data)
    storage = Storage(cluster, directory)
    storage.client.ready(storage.said.put)
    storage.client.start(0, storage.spawn)
    storage.client.submit(ReadBlocks(7, 0, refs[2:3], [0], 0, 1))
    told = storage.said.get(timeout=60)
    assert isinstance(told, Failed)
    assert told.kind == "CorruptBlockError"
    storage.client.close()

    nowhere = Storage(cluster, directory / "nowhere")
    nowhere.client.ready(nowhere.said.put)
    told = nowhere.said.get(timeout=60)
    assert isinstance(told, Failed)
    assert told.kind == "StoreError"
    nowhere.client.close()


def test_a_process_that_is_killed_is_named(stored: tuple[Cluster, Path, list[BlockRef]]) -> None:
    cluster, directory, _ = stored
    storage = Storage(cluster, directory)
    storage.client.ready(storage.said.put)
    storage.client.start(0, storage.spawn)
    storage.client._process.kill()
    error = storage.failed.get(timeout=60)
    assert str(error) == f"the storage process of engine 0 (pid {storage.client._process.pid}) was killed by signal 9"
    with pytest.raises(WorkerError, match="was killed by signal 9"):
        storage.client.summary()
