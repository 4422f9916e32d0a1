"""Which of the paper's numbers the simulator's constants were chosen on: the declared fit set. All else is predicted.

- every Oracle bar of Fig 7 (compute and decode costs);
- the Basic bar of the 48K set at the middle number of agents, one per model (how much a PE holds at once, storage);
- the Oracle curves of Fig 10 (decode step) with the capacity they imply;
- the curve of running agents of Fig 15 (how long-tailed the trajectories are).
"""

from __future__ import annotations

from dualpath.paper.cells import Cell

_DEFAULT_SHAPES = ("ds660b-2p4d", "ds27b-1p1d", "qwen32b-1p2d")
_BASIC = {
    Cell("ds660b-2p4d", "48k", "basic", 2048),
    Cell("ds27b-1p1d", "48k", "basic", 2048),
    Cell("qwen32b-1p2d", "48k", "basic", 256),
}


def is_fit_jct(cell: Cell) -> bool:
    """Whether the JCT of this run is in the fit set, in whichever figure it is shown."""
    is_plain = cell.append_factor == cell.generate_factor == 1 and not (cell.constants or cell.factors)
    is_plain = is_plain and cell.rate_per_s is None
    return cell in _BASIC or (is_plain and cell.arm == "oracle" and cell.cluster in _DEFAULT_SHAPES)


def is_fit_latency(cell: Cell) -> bool:
    """Whether TTFT, TTST and TPOT of this online run are in the fit set."""
    return cell.rate_per_s is not None and cell.arm == "oracle" and not (cell.constants or cell.factors)
