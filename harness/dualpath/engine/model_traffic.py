"""Model traffic: what stands for the collectives of a forward pass, in the lane that collectives have.

After each layer a prefill engine sends bytes to a decode engine and gets as many back, and its pass waits for them, as
it would for an all-to-all. How many is the cluster file's, `[links] model_bytes_per_token`; what is in them means
nothing. So a run shows what KV beside them does to their latency (table `collectives`), and to prefill.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from dualpath.core.cluster import Cluster
from dualpath.engine.data_path import DataPath
from dualpath.engine.geometry import SCRATCH_BYTES, Pieces, scratch_offset
from dualpath.engine.messages import Collective
from dualpath.engine.pages import zeros
from dualpath.engine.transport import Transport


class ModelTraffic:
    """One prefill engine's."""

    def __init__(self, cluster: Cluster, engine: int, transport: Transport, path: DataPath) -> None:
        self._engine = engine
        self._bytes_per_token = cluster.model_bytes_per_token / cluster.model.layers
        self._peer = cluster.num_prefill + engine % cluster.num_decode
        self._remote, self._remote_offset = f"buffer/{self._peer}", scratch_offset(cluster, self._peer)
        self._local = f"model/{engine}"
        self._scratch = zeros((SCRATCH_BYTES,), torch.uint8, "cpu")
        transport.register(self._local, self._scratch)
        self._transport = transport
        self._path = path
        self.rows: list[Collective] = []

    def exchange(self, new_tokens: int) -> None:
        """After a layer of a forward batch of so many new tokens."""
        num_bytes = int(self._bytes_per_token * new_tokens)
        started_ns = time.monotonic_ns()
        for direction, move in (("out", self._transport.write), ("back", self._transport.read)):
            pieces = self._pieces(num_bytes)
            self._path.exchange(
                num_bytes,
                (self._engine, self._peer) if direction == "out" else (self._peer, self._engine),
                lambda move=move, pieces=pieces: move(self._remote, self._local, pieces, lane="model"),  # type: ignore[misc]
            )
        ended_ns = time.monotonic_ns()
        self.rows.append(
            Collective(self._engine, self._peer, started_ns - self._path.zero_ns, 2 * num_bytes, ended_ns - started_ns)
        )

    def _pieces(self, num_bytes: int) -> Pieces:
        """The scratch again and again."""
        firsts = np.arange(0, num_bytes, SCRATCH_BYTES)
        sizes = np.minimum(SCRATCH_BYTES, num_bytes - firsts)
        return np.stack([np.zeros_like(sizes), np.full_like(sizes, self._remote_offset), sizes], axis=1)
