"""Counters of a port, from a folder made like the kernel's."""

from __future__ import annotations

import time
from pathlib import Path

from dualpath.engine.port_meter import PortMeter


def counters(sysfs: Path, sent_words: int, received_words: int) -> None:
    folder = sysfs / "mlx5_0" / "ports" / "1" / "counters"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "port_xmit_data").write_text(f"{sent_words}\n")
    (folder / "port_rcv_data").write_text(f"{received_words}\n")


def test_what_passes_while_it_looks_is_booked_once(tmp_path: Path) -> None:
    counters(tmp_path, 1000, 50)
    meter = PortMeter("mlx5_0", 1, node=3, sysfs=tmp_path)
    assert meter.is_counted
    counters(tmp_path, 1500, 50)
    meter.sample()
    counters(tmp_path, 1500, 60)
    rows = meter.rows()
    assert [(row.direction, row.bytes) for row in rows] == [("read", 2000), ("write", 40)]
    assert {(row.resource, row.node, row.engine, row.lane) for row in rows} == {("port", 3, None, "all")}
    assert meter.rows() == rows


def test_times_are_of_the_run(tmp_path: Path) -> None:
    counters(tmp_path, 0, 0)
    meter = PortMeter("mlx5_0", 1, node=0, sysfs=tmp_path)
    meter._zero_ns = time.monotonic_ns() - 1_000_000_000
    counters(tmp_path, 1, 0)
    assert 1_000_000_000 <= meter.rows()[0].bucket_ns < 60_000_000_000


def test_a_software_device_has_no_counters(tmp_path: Path) -> None:
    meter = PortMeter("rxe0", 1, node=0, sysfs=tmp_path)
    assert not meter.is_counted
    meter.run(0)  # returns at once
    assert meter.rows() == []
