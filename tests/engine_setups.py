"""What tests start engines with."""

from __future__ import annotations

from typing import Any

import msgspec
from dualpath.core.cluster import Cluster
from dualpath.engine.messages import EngineSetup


def engine_setup(cluster: Cluster, **values: Any) -> EngineSetup:
    """Of null engines, unless told otherwise; keywords replace values."""
    settings: dict[str, Any] = {
        "seed": 0,
        "checkpoint": "",
        "layerwise": True,
        "moves_kv": True,
        "deterministic": False,
        "verify": False,
        "null": True,
        "store_directory": "",
        "durable": "process",
        "network": None,
        "cluster": msgspec.msgpack.encode(cluster),
    }
    return EngineSetup(**{**settings, **values})
