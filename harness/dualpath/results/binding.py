"""Which resource binds a simulated run: the named rule `largest-lower-bound`.

Each candidate says how long its work takes at least, as a share of the time of the run's longest trajectory (offline
the JCT): a link by its bytes, prefill and decode by what no batching can save, and the trajectory itself by its time
alone on the cluster. None can be above 1, up to rounding; the largest is what the run cannot get below, so it binds.
How the shares come about: shares.py.

Held against what it stands for, it names what a resource faster by a quarter shortens most in nine of ten runs of the
paper's clusters; the others are near ties, and `Binding.rival` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

RULE = "largest-lower-bound"
CANDIDATES = {  # of equal shares the first one binds
    "snic_prefill": "SNIC, PE side",
    "snic_decode": "SNIC, DE side",
    "cnic": "CNIC",
    "dram": "DRAM",
    "prefill": "prefill compute",
    "decode": "decode compute",
    "latency": "longest trajectory",
}
NEAR = 0.9  # of the largest share: another that is so near could bind as well


class Binding(NamedTuple):
    """What binds, of CANDIDATES."""

    candidate: str
    share: float
    rival: str | None  # the next one, where it is near

    @property
    def name(self) -> str:
        return CANDIDATES[self.candidate]

    @property
    def text(self) -> str:
        near = f" (or {CANDIDATES[self.rival]})" if self.rival else ""
        return f"{self.name} {self.share:.0%}{near}"


def binding(shares: Mapping[str, float]) -> Binding:
    """shares: of every candidate."""
    order = sorted(CANDIDATES, key=lambda candidate: -shares[candidate])  # stable: ties in the order above
    first, second = order[0], order[1]
    return Binding(first, shares[first], second if 0 < NEAR * shares[first] <= shares[second] else None)
