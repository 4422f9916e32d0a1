from __future__ import annotations

from pathlib import Path

import pytest
from dualpath.results.links import (
    balance,
    steady_balance,
    steady_load_utilisation,
    utilisation,
    window_utilisation,
)
from dualpath.results.run import Run
from dualpath.results.steady import Window
from synthetic import MS, S, link, turn, write_run

LINKS = [  # a SNIC carries 100,000 B in a bucket of 100 ms
    link(0, 50_000),
    link(0, 30_000, route="decode"),
    link(200 * MS, 100_000),
    link(200 * MS, 25_000, direction="write", route="persist"),
    link(200 * MS, 50_000, node=1, route="decode"),
    link(100 * MS, 400_000, resource="cnic", engine=1, node=1, route="miss"),
]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.load(write_run(tmp_path / "r", [turn("a", 0, 0, S)], LINKS, arm="dualpath"))


def test_utilisation_over_time_fills_silent_buckets_with_zero(run: Run) -> None:
    rows = utilisation(run, "snic")
    series = {key: group.sort("start_ns")["utilisation"].to_list() for key, group in rows.group_by("nic", "direction")}
    assert series == {
        ("P0", "read"): [0.8, 0.0, 1.0],
        ("P0", "write"): [0.0, 0.0, 0.25],
        ("D0", "read"): [0.0, 0.0, 0.5],
        ("D0", "write"): [0.0, 0.0, 0.0],
    }
    cnic = utilisation(run, "cnic").filter(nic="DE0", direction="read")
    assert cnic["utilisation"].to_list() == [0.0, 0.5, 0.0]


def test_buckets_can_be_merged(run: Run) -> None:
    merged = utilisation(run, "snic", width_ns=250 * MS).filter(nic="P0", direction="read")
    assert merged["start_ns"].to_list() == [0, 200 * MS]
    assert merged["utilisation"].to_list() == [0.4, 0.5]


def test_only_whole_buckets_inside_the_window_count(run: Run) -> None:
    rows = window_utilisation(run, "snic", Window(50 * MS, 300 * MS))
    assert rows is not None
    assert rows.filter(nic="P0", direction="read")["utilisation"].to_list() == [0.5]
    assert window_utilisation(run, "snic", Window(50 * MS, 199 * MS)) is None


def test_native_links_have_bytes_but_no_utilisation(tmp_path: Path) -> None:
    native = write_run(tmp_path / "n", [turn("a", 0, 0, S)], LINKS, cluster_keys={"snic_bytes_per_s": None})
    rows = utilisation(Run.load(native), "snic")
    assert rows["utilisation"].null_count() == rows.height
    assert rows["bytes"].sum() == 255_000


def test_balance_is_largest_over_mean_of_all_snics(run: Run) -> None:
    rows = balance(run, window_ns=100 * MS)
    assert rows.rows() == [(0, 2.0), (200 * MS, pytest.approx(100_000 / 75_000))]


def test_steady_numbers_use_the_steady_window(tmp_path: Path) -> None:
    turns = []
    for index in range(10):
        turns += [turn(f"t{index}", 0, 0, S), turn(f"t{index}", 1, S, (2 + index) * S)]
    early = [link(0, 100_000), link(0, 100_000, node=1)]
    inside = [link(S + step * 100 * MS, 90_000) for step in range(60)]
    run = Run.load(write_run(tmp_path / "r", turns, early + inside))
    assert steady_load_utilisation(run) == {"P0": pytest.approx(0.9), "D0": 0.0}
    assert steady_balance(run) == 2.0
    online = Run.load(write_run(tmp_path / "o", turns, inside, feed={"mode": "online"}))
    assert steady_load_utilisation(online) is None
    assert steady_balance(online) is None
