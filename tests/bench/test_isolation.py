"""The isolation experiment: its models against closed forms, its report over rows made up to pass or to fail."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from dualpath.isolation import CASES, FLOOD_BYTES, FLOOD_DEPTH, LINK_MBIT, PROBE_BYTES, probe_rows, setting

ROOT = Path(__file__).resolve().parents[2]
AHEAD_NS = FLOOD_DEPTH * FLOOD_BYTES * 8_000 / LINK_MBIT  # of a probe in the flood's class, at most
QUIET_NS = PROBE_BYTES * 8_000 / LINK_MBIT


def program(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_the_simulator_keeps_the_lanes_apart() -> None:
    simulated = program("bench/isolation_models.py").simulated
    quiet, no_flood = simulated("model", None)
    assert set(quiet) == {QUIET_NS}
    assert no_flood == 0
    own, flood = simulated("model", "kv")
    assert max(own) <= QUIET_NS / 0.99 + 1, "99 % of the rate are the model lane's"
    assert flood > 0.9 * LINK_MBIT / 8, "KV has what probes leave"
    same, _ = simulated("model", "model")
    whole_flood_less_one = (FLOOD_DEPTH - 1) * FLOOD_BYTES * 8_000 / LINK_MBIT
    assert all(whole_flood_less_one <= latency <= AHEAD_NS + QUIET_NS for latency in same)


def rows_of(by: str, latency_ns: dict[str, float], repeats: int = 3) -> list[dict[str, Any]]:
    return [
        row
        for case in CASES
        for repeat in range(repeats)
        for row in probe_rows(by, case, repeat, [int(latency_ns[case.how] * (1 + repeat / 100))] * 5, 12.0)
    ]


def checks(folder: Path, latency_ns: dict[str, float]) -> dict[str, bool]:
    quiet = {"quiet": QUIET_NS, "own": QUIET_NS, "same": QUIET_NS + 0.8 * AHEAD_NS, "half": 1.0}
    shares = [
        {"what": "share", "repeat": repeat, "lane": lane, "floods": ["kv", "model"], "mb_per_s": rate}
        for repeat in range(3)
        for lane, rate in (("kv", 0.12), ("model", 12.3))
    ]
    files = {
        "isolation": [{**setting(), "device": "rxe0"}, *rows_of("verbs", latency_ns), *shares],
        "models": [setting(), *rows_of("pacer", quiet), *rows_of("simulator", quiet, 1)],
        "cost": [
            {"what": "write", "by": by, "mb_per_s": rate, "repeat": repeat}
            for by, rate in (("dualpath", 99.0), ("ib_write_bw", 100.0))
            for repeat in range(3)
        ],
    }
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {check.id: check.passed for check in program("reports/rdma.py").main(folder, folder / "out")}


def test_a_link_that_isolates_passes(tmp_path: Path) -> None:
    found = checks(tmp_path, {"quiet": 2e6, "own": 2.5e6, "same": 2e6 + 0.8 * AHEAD_NS, "half": 2e6 + 0.8 * AHEAD_NS})
    assert all(found.values()), found
    page = (tmp_path / "out" / "index.html").read_text()
    assert "Lanes that flood" in page


@pytest.mark.parametrize(
    ("how", "latency_ns", "failed"),
    [
        ("own", 2e6 + 0.8 * AHEAD_NS, "own"),  # one queue for all
        ("own", 9e6, "own"),  # slower than quiet, though faster than in the flood's class
        ("same", 2.5e6, "same"),  # no queue at all: the flood was none
        ("half", 2.5e6, "half"),  # the mark of one end decides nothing
    ],
)
def test_a_link_that_does_not_fails(tmp_path: Path, how: str, latency_ns: float, failed: str) -> None:
    times = {"quiet": 2e6, "own": 2.5e6, "same": 2e6 + 0.8 * AHEAD_NS, "half": 2e6 + 0.8 * AHEAD_NS}
    found = checks(tmp_path, {**times, how: latency_ns})
    assert not any(passed for id, passed in found.items() if id.startswith("rdma.verbs") and id.endswith(failed))


def test_what_was_not_measured_fails(tmp_path: Path) -> None:
    found = program("reports/rdma.py").main(tmp_path, tmp_path / "out")
    assert found
    assert not any(check.passed for check in found)
    assert "Isolation was not measured" in (tmp_path / "out" / "index.html").read_text()
