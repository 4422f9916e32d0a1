"""The one place that imports pyverbs: when a NIC is opened, not before.

It comes with Debian's python3-pyverbs (44), or from PyPI (59, which needs rdma-core 59); only their enums' homes
differ.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from dualpath.engine.rdma.settings import RdmaError


def load_pyverbs() -> tuple[Any, Any]:
    """(the package with its parts loaded, its enums). Raises RdmaError where it is not installed."""
    try:
        for part in ("addr", "cq", "device", "mr", "pd", "pyverbs_error", "qp", "wr"):
            import_module(f"pyverbs.{part}")
        try:
            enums = import_module("pyverbs.libibverbs_enums")
        except ImportError:
            enums = import_module("pyverbs.enums")
    except ImportError as error:
        raise RdmaError(
            f"pyverbs cannot be imported ({error}); install it: apt install python3-pyverbs rdma-core "
            "ibverbs-providers, with the distribution's own Python; or run with --transport shared or nixl"
        ) from None
    return import_module("pyverbs"), enums
