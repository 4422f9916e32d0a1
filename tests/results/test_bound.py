from __future__ import annotations

from pathlib import Path

import pytest
from dualpath.core.errors import RunError
from dualpath.results.bound import coordinator_ms_per_turn, jct_s, noise, snic_bound
from dualpath.results.run import Run
from synthetic import MS, S, turn, write_run

TURNS = [turn("a", 0, 0, S), turn("a", 1, S, 2 * S, hit_tokens=512)]  # 512 kB of hits at 1 MB/s per SNIC


def test_pooled_snic_time_and_how_close_the_run_came(tmp_path: Path) -> None:
    single = snic_bound(Run.load(write_run(tmp_path / "a", TURNS, decode=(2, 1))))
    dual = snic_bound(Run.load(write_run(tmp_path / "b", TURNS, decode=(2, 1), arm="dualpath")))
    assert single is not None
    assert dual is not None
    assert (single.snics, single.hit_bytes, single.seconds) == (1, 512_000, 0.512)
    assert single.closeness == pytest.approx(0.256)
    assert (dual.snics, dual.seconds) == (3, pytest.approx(0.512 / 3))


def test_no_bound_without_reads_or_rates(tmp_path: Path) -> None:
    assert snic_bound(Run.load(write_run(tmp_path / "a", TURNS, arm="oracle"))) is None
    native = write_run(tmp_path / "b", TURNS, cluster_keys={"snic_bytes_per_s": None})
    assert snic_bound(Run.load(native)) is None


def test_noise_is_the_spread_of_repeats(tmp_path: Path) -> None:
    runs = [Run.load(write_run(tmp_path / f"{end}", [turn("a", 0, 0, end * MS)])) for end in (1000, 1020, 1010)]
    found = noise(runs)
    assert found is not None
    assert found.jct_s == (1.0, 1.02, 1.01)
    assert found.spread == pytest.approx(0.02)
    assert noise(runs[:1]) is None


def test_void_runs_have_no_numbers(tmp_path: Path) -> None:
    void = Run.load(write_run(tmp_path / "v", TURNS, status="void"))
    for function in (snic_bound, jct_s):
        with pytest.raises(RunError, match="void"):
            function(void)
    with pytest.raises(RunError, match="void"):
        noise([void, void])


def test_coordinator_time_per_turn(tmp_path: Path) -> None:
    assert coordinator_ms_per_turn(Run.load(write_run(tmp_path / "a", TURNS))) == 1.5  # 3 ms over 2 turns
    assert coordinator_ms_per_turn(Run.load(write_run(tmp_path / "b", TURNS, coordinator=None))) is None
