"""Every constant of the headline's cell: its value, where it comes from, and what 20 % of it change.

The headline is Basic over DualPath, DS 660B on 2P4D, 64K set, 1,024 agents.
"""

from __future__ import annotations

from typing import Any

from dualpath.paper.cells import Cell
from dualpath.paper.draw import panels
from dualpath.paper.part import Part
from dualpath.paper.runs import Results
from dualpath.report.figure import Figure, finish
from dualpath.report.style import arm_colour
from dualpath.report.table import Table, number, table

CLUSTER, AGENTS, ARMS = "ds660b-2p4d", 1024, ("basic", "dualpath")
FACTORS = (0.8, 1.2)
CONSTANTS = (  # those of the profile, then those of the cluster file
    "pass_ms",
    "prefill_us_per_token",
    "attention_us_per_context",
    "attention_ns_per_pair",
    "step_ms",
    "step_us_per_request",
    "step_ns_per_context",
    "request_ms",
    "handoff_ms",
    "client_gb_per_s",
    "snic_us_per_block",
    "dram_gb_per_s",
    "snic_gb_per_s",
    "cnic_gb_per_s",
    "prefill_hbm_gb",
    "decode_hbm_gb",
    "prefill_buffer_gb",
    "decode_buffer_gb",
    "quota_ms",
    "alpha_s",
    "beta_s",
    "report_s",
)
# Where a constant of the cluster file comes from; those of the profile say so themselves.
CLUSTER_SOURCES = {
    "snic_gb_per_s": "fit: Basic at 48K and the middle agent count, DS 27B and Qwen 32B; one value for all models",
    "cnic_gb_per_s": "paper: 400 Gbit/s",
    "prefill_hbm_gb": "fit: Basic at 48K, 2,048 agents: what a PE holds where it holds all layers at once",
    "decode_hbm_gb": "fit: Oracle cells of Fig 7",
    "prefill_buffer_gb": "paper A.4: 80 GB of DRAM per node",
    "decode_buffer_gb": "paper A.4: 80 GB of DRAM per node",
    "quota_ms": "paper A.4; read as a limit on a whole pass",
    "alpha_s": "paper A.4",
    "beta_s": "paper A.4",
    "report_s": "choice: about one forward pass; the period is not stated",
}


def _cell(arm: str, *factors: tuple[str, float]) -> Cell:
    return Cell(CLUSTER, "64k", arm, AGENTS, factors=factors)


CELLS = tuple(_cell(arm) for arm in ARMS) + tuple(
    _cell(arm, (name, factor)) for name in CONSTANTS for factor in FACTORS for arm in ARMS
)


def report(results: Results) -> Part:
    base = _headline(results)
    moved = {name: [_change(base, _headline(results, (name, factor))) for factor in FACTORS] for name in CONSTANTS}
    return Part(
        id="sensitivity",
        title="The constants, and what 20 % of each change",
        text="Headline: JCT of Basic over that of DualPath, DS 660B on 2P4D, 64K set, 1,024 agents. Each constant "
        "alone, times 0.8 and 1.2. A fitted constant that moves the headline much is one the result leans on. The "
        "other models' constants are in their profiles, each with its source.",
        figures=(_figure(moved),),
        tables=(_table(results, base, moved),),
    )


def _headline(results: Results, *factors: tuple[str, float]) -> float | None:
    basic, dualpath = (results.jct_s(_cell(arm, *factors)) for arm in ARMS)
    return None if basic is None or dualpath is None else basic / dualpath


def _change(base: float | None, other: float | None) -> float | None:
    return None if base is None or other is None else other / base - 1


def _table(results: Results, base: float | None, moved: dict[str, list[float | None]]) -> Table:
    run = results.run(_cell("dualpath"))
    profile: dict[str, Any] = {} if run is None else run.raw.get("profile", {})
    cluster: dict[str, Any] = {} if run is None else run.raw["cluster"]
    rows = []
    for name in CONSTANTS:
        known = profile.get(name)
        value = known["value"] if known else _cluster_value(cluster, name)
        source = known["source"] if known else CLUSTER_SOURCES.get(name, "")
        changes = [number(None if change is None else 100 * change) for change in moved[name]]
        rows.append((name, number(value), source, *changes))
    columns = ("constant|", "value", "source|", "x 0.8: headline, %", "x 1.2: headline, %")
    return table("Constants of DS 660B on 2P4D", columns, rows, f"Headline with all of them: {number(base)}.")


def _cluster_value(cluster: dict[str, Any], name: str) -> float | None:
    if not cluster:
        return None
    if name in ("snic_gb_per_s", "cnic_gb_per_s"):
        return float(cluster[name.replace("gb_per_s", "bytes_per_s")]) / 1e9
    if name.endswith("_gb"):
        return float(cluster["memory"][name.replace("_gb", "_bytes")]) / 1e9
    if name == "quota_ms":
        return float(cluster["constants"]["quota_s"]) * 1e3
    value = cluster["constants"].get(name)  # not there: an older run, of a profile without it
    return None if value is None else float(value)


def _figure(moved: dict[str, list[float | None]]) -> Figure:
    drawing, grid = panels(1, 1, 4.6)
    axes = grid[0][0]
    ordered = sorted(moved, key=lambda name: max((abs(change) for change in moved[name] if change), default=0.0))
    for place, name in enumerate(ordered):
        for change, arm in zip(moved[name], ARMS, strict=True):
            if change is not None:
                axes.barh(place, 100 * change, height=0.7, color=arm_colour(arm), alpha=0.85)
    axes.set_yticks(range(len(ordered)), ordered)
    axes.axvline(0, color="#888888", linewidth=0.8)
    axes.set_xlabel("change of Basic / DualPath, %   (grey: the constant x 0.8, blue: x 1.2)")
    drawing.tight_layout()
    return finish(
        drawing,
        "sensitivity",
        "What each constant does to the headline",
        "Bars: the constant 20 % smaller and 20 % larger, all others as they are.",
    )
