"""The program reports/sim_speed.py on rows as bench/sim_speed.py keeps them."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "reports" / "sim_speed.py"
FACTS = {
    "session": "2026-01-01T00:00:00+00:00",
    "quick": False,
    "code": "c0de",
    "commit": "0123456789abcdef",
    "dirty": False,
    "host": {"cpu": "a processor", "cores": 2},
    "status": "ok",
    "error": "",
    "load_before": 0.1,
    "process_s": 12.0,
    "cpu_s": 10.0,
    "seconds": 10.0,
    "peak_bytes": 2 << 30,
    "agents": 2048,
    "table_bytes": 1_000_000,
}
SIZES = {"paper-ds660b-2p4d": 48, "paper-ds660b-8p16d": 192, "paper-ds660b-48p96d": 1152}
IDS = [
    "sim.turns_per_s.2p4d",
    "sim.turns_per_s.2p4d.loop",
    "sim.big.seconds",
    "sim.big.memory",
    "sim.scaling",
    "sim.vs.dynosim",
    "sim.vs.simpy",
    "sim.scheduler.cores",
]


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sim_speed_report", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


def _write(folder: Path, group: str, *rows: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{group}.jsonl").open("a") as file:
        for row in rows:
            whole = {**FACTS, "group": group, "repeat": 0, **row}
            file.write(json.dumps({name: value for name, value in whole.items() if value is not None}) + "\n")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    folder = tmp_path / "rows"
    for repeat, seconds in enumerate((10.0, 12.5, 5.0)):
        _write(folder, "turns", {"arm": "whole", "repeat": repeat, "turns": 500_000, "seconds": seconds})
        _write(folder, "turns", {"arm": "loop", "repeat": repeat, "turns": 500_000, "seconds": seconds / 5})
    _write(folder, "big", *({"arm": "whole", "repeat": r, "turns": 5_000_000, "seconds": 80.0 + r} for r in range(2)))
    for arm, engines in SIZES.items():  # twice as slow at each size: more than log(engines) at 192, less at 1,152
        cost = 1 + list(SIZES.values()).index(engines) * 0.5
        _write(folder, "scaling", {"arm": arm, "engines": engines, "turns": 1000, "cpu_s": cost, "seconds": 9.0})
    _write(
        folder,
        "dynosim",
        {"arm": "dualpath", "turns": 1000, "seconds": 1.0, "cpu_s": 1.0},
        {"arm": "dynosim 2P4D", "turns": 1000, "seconds": 4.0, "cpu_s": 3.0},
        {"arm": "dynosim 16P32D", "turns": 1000, "seconds": 8.0, "cpu_s": 6.0},
    )
    _write(
        folder,
        "simpy",
        {"arm": "pending", "events": 1000, "pending": 32, "seconds": None},
        {"arm": "loop", "events": 1000, "seconds": 1.0},
        {"arm": "simpy", "events": 1000, "seconds": 3.0, "pending": 32},
    )
    online = {"rate_per_s": 8.0, "turns_per_agent": 100.0, "events": 5_000_000, "turns": 1_000_000, "simulated_s": 1e3}
    _write(folder, "scheduler", {"arm": "online", **online, "cpu_s": 1.0})
    _write(folder, "compile", {"arm": "first call", "turns": 34, "seconds": 25.0})
    return folder


def test_every_check_comes_from_its_rows(program: ModuleType, rows: Path, tmp_path: Path, capsys: Any) -> None:
    checks = {check.id: check for check in program.main(rows, tmp_path / "out")}
    assert list(checks) == IDS
    assert checks["sim.turns_per_s.2p4d"].value == 50_000
    assert checks["sim.turns_per_s.2p4d.loop"].value == 250_000
    assert checks["sim.big.seconds"].value == 81  # the longest
    assert checks["sim.big.memory"].value == 2
    assert checks["sim.scaling"].value == pytest.approx(1.5 / (math.log(192) / math.log(48)))
    assert checks["sim.vs.dynosim"].value == 4  # its fastest
    assert checks["sim.vs.simpy"].value == 3
    assert checks["sim.scheduler.cores"].value == pytest.approx(8 * 100 * 5 / 5e6)
    assert {id for id, check in checks.items() if not check.passed} == {"sim.scaling"}
    assert "1152 engines: 2.00x, allowed 1.82x" in checks["sim.scaling"].note
    assert "by CPU time 3.0x" in checks["sim.vs.dynosim"].note
    assert checks["sim.big.seconds"].rows[0].endswith("big.jsonl")
    written = json.loads((tmp_path / "out" / "checks.json").read_text())
    assert [row["id"] for row in written] == IDS
    assert "FAIL sim.scaling" in capsys.readouterr().out
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "What each models" in page
    assert "not quiet" not in page


def test_nothing_there_fails_every_check_and_still_reports(program: ModuleType, tmp_path: Path) -> None:
    checks = program.main(tmp_path / "nothing", tmp_path / "out")
    assert [check.id for check in checks] == IDS
    assert all((check.value, check.passed) == (None, False) and "run missing" in check.note for check in checks)
    assert "Nothing was measured" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_what_could_not_be_measured_says_why(program: ModuleType, rows: Path, tmp_path: Path) -> None:
    for group, arm, reason in (("dynosim", "dynosim 2P4D", "pip: no network"), ("simpy", "simpy", "no such module")):
        (rows / f"{group}.jsonl").unlink()
        _write(rows, group, {"arm": arm, "status": "failed", "error": reason})
    (rows / "big.jsonl").write_text("{half a row")
    checks = {check.id: check for check in program.main(rows, tmp_path / "out")}
    assert "pip: no network" in checks["sim.vs.dynosim"].note
    assert checks["sim.vs.simpy"].note == "no such module"
    assert "not usable" in checks["sim.big.memory"].note
    assert {checks[id].value for id in ("sim.vs.dynosim", "sim.vs.simpy", "sim.big.memory")} == {None}
    assert "not measured: pip: no network" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_the_latest_session_counts_and_a_quick_one_passes_nothing(
    program: ModuleType, rows: Path, tmp_path: Path
) -> None:
    later = {"session": "2026-01-02T00:00:00+00:00", "load_before": 7.5, "quick": True, "dirty": True}
    _write(rows, "turns", {"arm": "whole", "turns": 100, "seconds": 1.0, **later})
    loaded = program.load(rows)
    assert [row["turns"] for row in loaded.of("turns")] == [100]
    said = " ".join(program.caveats([row for group in loaded.groups.values() for row in group]))
    assert all(word in said for word in ("--quick", "7.5", "uncommitted"))
    assert not any(check.passed for check in program.main(rows, tmp_path / "out"))


def test_rounds_are_paired_by_their_number(program: ModuleType, tmp_path: Path) -> None:
    """One that failed leaves its round out, and does not shift the others."""
    _write(tmp_path, "simpy", *({"arm": "loop", "events": 10, "seconds": 1.0 + r, "repeat": r} for r in range(3)))
    _write(tmp_path, "simpy", *({"arm": "simpy", "events": 10, "seconds": 4.0, "repeat": r} for r in (1, 2)))
    pairs = program.load(tmp_path).pairs("simpy", "loop", "simpy")
    assert [(ours["seconds"], theirs["repeat"]) for ours, theirs in pairs] == [(2.0, 1), (3.0, 2)]
