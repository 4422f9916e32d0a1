"""Cells: names that stay, and the plans behind them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from dualpath.paper.cells import ARM_OF, CLUSTERS, Cell, online, unique
from dualpath.paper.figures import FIGURES
from dualpath.paper.fit import is_fit_jct, is_fit_latency

ROOT = Path(__file__).resolve().parents[2]
EVERY = unique(cell for entry in FIGURES.values() for cell in entry.cells)


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        (Cell("ds660b-2p4d", "64k", "dualpath", 1024), "ds660b-2p4d/64k/1024-agents/dualpath"),
        (online("ds660b-44p88d", "48k", "dualpath", 8.8), "ds660b-44p88d/48k/8.8-per-s/dualpath"),
        (
            Cell("ds660b-2p4d", "64k", "basic", 1024, append_factor=Fraction(3, 2)),
            "ds660b-2p4d/64k/1024-agents/basic,append-1.5",
        ),
        (
            Cell("ds27b-1p1d", "64k", "dualpath", 8, constants=(("dram_gb_per_s", 100.0),)),
            "ds27b-1p1d/64k/8-agents/dualpath,dram_gb_per_s=100",
        ),
    ],
)
def test_names_stay(cell: Cell, name: str) -> None:
    assert cell.name == name


def test_names_are_unique() -> None:
    assert len({cell.name for cell in EVERY}) == len(EVERY) > 300


def test_every_cell_has_its_files_and_a_plan() -> None:
    for cell in EVERY:
        plan = cell.plan(ROOT, Path("out"))
        assert plan.trace.exists()
        assert plan.cluster.exists()
        assert plan.backend == "sim"
        assert cell.cluster in CLUSTERS


def test_only_multiplied_lengths_are_cut_again() -> None:
    plain, longer = (Cell("ds660b-2p4d", "64k", "basic", 8, append_factor=Fraction(k)) for k in (1, 3))
    assert plain.plan(ROOT, ROOT).max_len is None
    assert longer.plan(ROOT, ROOT).max_len == 65536


def test_online_agents_arrive_for_4500_s() -> None:
    assert online("ds660b-2p4d", "64k", "basic", 0.35).agents == 1575  # not 1576, for a rounding error
    assert online("ds27b-1p1d", "64k", "basic", 0.25).plan(ROOT, ROOT).mode == "online"


def test_the_fit_set_is_the_declared_one() -> None:
    fit = {cell for cell in EVERY if is_fit_jct(cell) and cell.arm != "oracle"}
    assert fit == {
        Cell("ds660b-2p4d", "48k", "basic", 2048),
        Cell("ds27b-1p1d", "48k", "basic", 2048),
        Cell("qwen32b-1p2d", "48k", "basic", 256),
    }
    oracles = [cell for cell in FIGURES["fig7"].cells if cell.arm == "oracle"]
    assert len(oracles) == 33
    assert all(map(is_fit_jct, oracles))
    assert not is_fit_jct(Cell("ds660b-2p4d", "64k", "oracle", 1024, append_factor=Fraction(2)))
    assert is_fit_latency(online("ds660b-2p4d", "64k", "oracle", 0.1))
    assert not is_fit_latency(online("ds660b-2p4d", "64k", "dualpath", 0.1))


def test_layerwise_and_split_run_wherever_dualpath_does() -> None:
    for figure in ("fig7", "fig8", "fig10"):
        cells = {(cell.cluster, cell.max_len, cell.agents, cell.rate_per_s, cell.arm) for cell in FIGURES[figure].cells}
        points = {cell[:4] for cell in cells if cell[4] == "dualpath"}
        assert points
        assert all({(*point, "layerwise"), (*point, "split")} <= cells for point in points)


def test_the_papers_systems_are_our_arms() -> None:
    assert {ARM_OF[name] for name in ("basic", "dualpath", "oracle")} == {"basic", "dualpath", "oracle"}
    assert ARM_OF["without_scheduling"] == ARM_OF["layerwise+dualpath"] == "dualpath-rr"
