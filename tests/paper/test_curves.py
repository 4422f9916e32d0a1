"""Curves over a run's time and progress, loads of its links, capacities over a grid of rates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from dualpath.paper import hop_loads, over_time
from dualpath.paper.capacity import RATES, Capacity, capacity, rates_of, step
from dualpath.paper.cells import Cell
from dualpath.paper.fig14 import balance_by_progress
from dualpath.paper.fig15 import at
from dualpath.paper.online import Point
from dualpath.paper.runs import Results
from dualpath.results.run import Run, polars_schema
from dualpath.results.steady import Window
from synthetic import MS, S, link, turn, write_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Two agents: one ends after 2 s, the other after 10; first tokens at 1, 3 and 5 s."""
    turns = [
        turn("a", 0, 0, 2 * S, first_token_ns=S),
        turn("b", 0, 0, 4 * S, first_token_ns=3 * S),
        turn("b", 1, 4 * S, 10 * S, first_token_ns=5 * S),
    ]
    return Run.load(write_run(tmp_path / "run", turns, [link(0, 600), link(100 * MS, 200, node=1, route="decode")]))


def test_rates_and_ttft_by_window(run: Run) -> None:
    assert over_time.prompt_rate(run, 4).rows() == [(2.0, 64.0), (6.0, 32.0)]
    assert over_time.mean_ttft(run, 4).rows() == [(2.0, 2.0), (6.0, 1.0)]


def test_agents_under_way(run: Run) -> None:
    assert over_time.running(run, [0, 1.9, 2, 9.9, 10]) == [2, 2, 1, 1, 0]


def test_the_nearest_value() -> None:
    assert at([25.0, 75.0, 125.0], [1.0, 2.0, 3.0], 90) == 2.0


def test_balance_by_progress(run: Run) -> None:
    rows: list[dict[str, Any]] = [
        {"start_ns": 0, "attention_max_ns": 8.0, "attention_mean_ns": 4.0},
        {"start_ns": 0, "attention_max_ns": 4.0, "attention_mean_ns": 4.0},
        {"start_ns": 2 * S, "attention_max_ns": 9.0, "attention_mean_ns": 3.0},
        {"start_ns": 2 * S, "attention_max_ns": 0.0, "attention_mean_ns": 0.0},  # nothing to attend to
    ]
    schema = polars_schema("passes")
    filled = [{**dict.fromkeys(schema, 0), **row} for row in rows]
    pl.DataFrame(filled, schema=schema).write_parquet(run.directory / "passes.parquet")
    assert balance_by_progress(run) == {5: 1.5, 35: 3.0}


def test_a_run_without_passes_has_no_balance(run: Run) -> None:
    assert balance_by_progress(run) == {}


def test_loads_in_units_of_what_a_storage_nic_reads(tmp_path: Path) -> None:
    links = [
        link(0, 600),
        link(0, 200, node=1, route="decode"),
        link(0, 999, node=1, direction="write", route="persist"),
        link(0, 1200, resource="dram"),
        link(0, 200, resource="cnic", engine=0, direction="write", route="miss"),
    ]
    found = hop_loads.of_run(Run.load(write_run(tmp_path / "run", [turn("a", 0, 0, S)], links)))
    assert (found.prefill, found.decode) == (1.5, 0.5)
    assert found.hits["PE DRAM"] == 3.0
    assert (found.hits["PE CNIC write"], found.everything["PE CNIC write"]) == (0.0, 0.5)


def test_busy_shares_of_a_window(tmp_path: Path) -> None:
    links = [
        link(200 * MS, 1, busy_ns=80 * MS),
        link(300 * MS, 1, busy_ns=40 * MS),
        link(400 * MS, 1, busy_ns=100 * MS),  # outside
        link(200 * MS, 1, resource="dram", direction="read", busy_ns=50 * MS),
        link(200 * MS, 1, resource="dram", direction="write", busy_ns=50 * MS),
    ]
    run = Run.load(write_run(tmp_path / "run", [turn("a", 0, 0, S)], links))
    found = hop_loads.busy(run, Window(150 * MS, 420 * MS))
    assert found["PE SNIC read"] == pytest.approx(0.6)
    assert found["PE DRAM"] == pytest.approx(0.5)
    assert found["DE SNIC read"] == 0


class Rated(Results):
    """Every rate up to `last` is within the SLO; those in `missing` were not run."""

    def __init__(self, last: float, missing: tuple[float, ...] = ()) -> None:
        super().__init__(Path("root"), Path("out"))
        self._last, self._missing = last, missing

    def point(self, cell: Cell) -> Point | None:
        rate = cell.rate_per_s or 0.0
        if rate in self._missing:
            return None
        ttft_s = 1.0 if rate <= self._last else 5.0
        return Point(1950, "steady", ttft_s, 0.1, 0.03, {}, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("last", "missing", "found"),
    [
        (0.3, (), Capacity(0.3, False, "")),
        (0.05, (), Capacity(0.0, False, "")),
        (9.0, (), Capacity(0.6, True, "")),
        (0.3, (0.5,), Capacity(0.3, False, "")),  # beyond the first failure it does not matter
        (0.3, (0.2,), Capacity(None, False, "run missing: ds660b-2p4d/64k/0.2-per-s/dualpath")),
    ],
)
def test_capacity(last: float, missing: tuple[float, ...], found: Capacity) -> None:
    assert capacity(Rated(last, missing), "ds660b-2p4d", "64k", "dualpath") == found


def test_steps_of_the_grid() -> None:
    assert [step("ds27b-1p1d", rate) for rate in (0.0, 0.25, 0.3, 0.75, 1.05)] == [0, 1, 2, 6, 8]
    assert rates_of("ds660b-2p4d", "basic")[-1] == 0.35
    assert rates_of("ds660b-2p4d", "dualpath") == RATES["ds660b-2p4d"]
