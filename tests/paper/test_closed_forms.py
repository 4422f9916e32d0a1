"""What is computed without a run: Table 1, the two-line form of Fig 7, the loads of section 4.2."""

from __future__ import annotations

from fractions import Fraction

import pytest
from dualpath.paper import closed_form, hop_loads
from dualpath.paper.cache_compute import CONTEXTS, SHAPES
from dualpath.paper.hop_loads import KINDS


@pytest.mark.parametrize(
    ("model", "at_16k", "at_64k", "near"),
    [
        ("Qwen2.5-32B", 117, 267, 0.02),
        ("GPT-OSS-120B", 47, 95, 0.02),
        ("Qwen3-235B-A22B", 39, 60, 0.02),
        ("DeepSeek-V3.2", 13, 36, 0.07),
        ("DeepSeek-V3", 4.8, 5.8, 0.12),
    ],
)
def test_table_1(model: str, at_16k: float, at_64k: float, near: float) -> None:
    assert SHAPES[model].gb_per_pflop(CONTEXTS["16k"]) == pytest.approx(at_16k, rel=near)
    assert SHAPES[model].gb_per_pflop(CONTEXTS["64k"]) == pytest.approx(at_64k, rel=near)


def test_the_texts_22_gb_per_pflop_is_the_mean_context() -> None:
    assert SHAPES["DeepSeek-V3.2"].gb_per_pflop(32_721) == pytest.approx(22, rel=0.03)


@pytest.mark.parametrize(
    ("nodes", "arm", "snics"),
    [("2P4D", "basic", 2), ("2P4D", "layerwise", 2), ("2P4D", "dualpath", 6), ("48P96D", "split", 144)],
)
def test_storage_nics_of_a_system(nodes: str, arm: str, snics: int) -> None:
    assert closed_form.snics(nodes, arm) == snics


def test_read_seconds_by_hand() -> None:
    """2,048 agents x 106 turns x 25,120 tokens x 48,068 bytes over two NICs of 50 GB/s."""
    by_hand = 2048 * 106 * 25_120 * 48_068 / 100e9
    assert closed_form.read_s("DS 660B", "2P4D", "basic", 2048, 106, 25_120) == pytest.approx(by_hand)
    assert by_hand == pytest.approx(2621, rel=0.001)


@pytest.mark.parametrize("shape", [(1, 1, 8), (1, 2, 8), (2, 1, 4), (3, 2, 2), (1, 4, 1)])
def test_loads_follow_from_the_hop_table(shape: tuple[int, int, int]) -> None:
    found = hop_loads.of_table(*shape)
    assert {kind: {value} for kind, value in hop_loads.formulas(*shape).items()} == found


def test_loads_of_unequal_reads() -> None:
    """All on the decode side: nothing crosses PE DRAM, each decode engine reads twice and writes once."""
    loads = hop_loads.formulas(1, 1, 8, 0, 2)
    assert loads == dict(zip(KINDS, [0, Fraction(1, 4), Fraction(1, 2), Fraction(1, 4), 0, 6], strict=True))


def test_the_papers_range_is_where_loads_reach_their_limits() -> None:
    """g = 8, M / (B s) = 10: 1/7 and 7/2."""
    assert hop_loads.formulas(1, 7, 8)["PE CNIC write"] == 1
    upper = hop_loads.formulas(7, 2, 8)
    assert (upper["DE CNIC write"], upper["DE DRAM"]) == (1, 10)
    assert upper["DE CNIC read"] < 1
