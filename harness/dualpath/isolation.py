"""The isolation experiment: what its programs have in common, so that all of them send the same probes beside the same
flood (bench/isolation_verbs.py over RDMA, bench/isolation_models.py through the pacer and the simulator).

Probes stand for collectives: one small transfer at a time, on the model lane. The flood stands for KV.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from dualpath.engine.pacer import Lane

PROBE_BYTES = 4096
PROBES, GAP_S = 300, 0.004  # probes of one case in one repeat, and the pause before each
FLOOD_BYTES, FLOOD_DEPTH = 64 << 10, 4  # transfers of a lane that are kept under way
SETTLE_S = 0.3  # from a flood's begin to the first probe
SHARES_S = 5.0  # of the case without probes
REPEATS = 3
LINK_MBIT = 100

Marks = Literal["own", "half"]
MARKS: dict[Marks, tuple[Lane, Lane]] = {"own": ("model", "model"), "half": ("model", "kv")}  # near end, far end


class Case(NamedTuple):
    """flood: its direction, by what it runs beside; how: quiet (none), same (a flood in the probes' class), own (in
    KV's class), half (in KV's class, and the far end of the probes' queue pair is marked as KV)."""

    probe: Literal["write", "read"]
    beside: Literal["data", "answers"]
    how: Literal["quiet", "same", "own", "half"]

    @property
    def marks(self) -> Marks:
        return "half" if self.how == "half" else "own"

    @property
    def flood_lane(self) -> Lane | None:
        return None if self.how == "quiet" else "model" if self.how == "same" else "kv"

    @property
    def is_flooded_from_far(self) -> bool:
        """The data of writes leave the near end; their answers, and the data of reads, leave the far end."""
        return (self.probe, self.beside) != ("write", "data")


DIRECTIONS: tuple[tuple[Literal["write", "read"], Literal["data", "answers"]], ...] = (
    ("write", "data"),
    ("write", "answers"),
    ("read", "data"),
)
CASES = (
    Case("write", "data", "quiet"),
    Case("read", "data", "quiet"),
    *(Case(probe, beside, how) for probe, beside in DIRECTIONS for how in ("same", "own")),
    Case("write", "answers", "half"),
    Case("read", "data", "half"),
)
MODEL_CASES = tuple(case for case in CASES if (case.probe, case.beside) == ("write", "data"))


def setting() -> dict[str, object]:
    """For the head of every file of rows."""
    return {
        "what": "setting",
        "probe_bytes": PROBE_BYTES,
        "probes": PROBES,
        "gap_s": GAP_S,
        "flood_bytes": FLOOD_BYTES,
        "flood_depth": FLOOD_DEPTH,
        "link_mbit": LINK_MBIT,
        "repeats": REPEATS,
    }


def probe_rows(
    by: str, case: Case, repeat: int, latencies_ns: list[int], flood_mb_per_s: float
) -> list[dict[str, object]]:
    return [
        {
            "what": "probe",
            "by": by,
            **case._asdict(),
            "repeat": repeat,
            "number": number,
            "latency_ns": latency_ns,
            "flood_mb_per_s": flood_mb_per_s,
        }
        for number, latency_ns in enumerate(latencies_ns)
    ]
