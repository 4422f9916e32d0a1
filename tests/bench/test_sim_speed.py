"""The programs bench/sim_speed*.py on tiny counts: what is measured and how it is kept, not how fast it is."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from dualpath.cluster_file import load_cluster
from dualpath.core.errors import DualpathError
from dualpath.trace.reader import TraceFile

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ROOT / "traces" / "smoke.parquet"
TURNS = 34  # of the smoke trace


def _program(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_program", ROOT / "bench" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return _program("sim_speed")


@pytest.fixture(scope="module")
def ours() -> ModuleType:
    return _program("sim_speed_ours")


@pytest.fixture
def session(bench: ModuleType, tmp_path: Path) -> Any:
    (tmp_path / "scratch").mkdir()
    return bench.Session(tmp_path, bench.QUICK, seed=0)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _options(**more: object) -> argparse.Namespace:
    cluster = ROOT / "bench" / "clusters" / "paper-ds660b-2p4d.toml"
    given = {"cluster": cluster, "trace": SMOKE, "agents": None, "rate": None, "events": 1000, "pending": 10}
    return argparse.Namespace(**{**given, **more})


def test_whole_and_loop_serve_the_same_turns(ours: ModuleType) -> None:
    whole, loop = ours.whole(_options()), ours.loop(_options())
    assert whole["turns"] == loop["turns"] == TURNS
    assert whole["events"] == loop["events"] > TURNS
    assert loop["engines"] == 48
    assert whole["table_bytes"] > 0
    assert min(whole["seconds"], whole["cpu_s"], loop["seconds"]) > 0


def test_pending_events_are_counted_until_the_end(ours: ModuleType) -> None:
    found = ours.pending(_options())
    assert found["events"] == ours.loop(_options())["events"]
    assert 0 <= found["pending"] <= found["most_pending"]


def test_the_queue_stays_as_full_as_it_was(ours: ModuleType) -> None:
    assert ours.heap(_options())["events"] == 1000
    queue = ours.new_heap(6)
    ours._spin(queue, 5, 100)
    assert queue.size[0] == 5
    assert queue.rows[0].a > 0


@pytest.mark.parametrize("rate", [None, 1.0])
def test_the_scheduler_alone_decides_as_in_the_simulation(ours: ModuleType, rate: float | None) -> None:
    """It asserts itself that both end in the same state."""
    found = ours.scheduler(_options(rate=rate))
    assert 0 < found["assigned"] <= found["commands"]
    assert 0 < found["turns"] <= TURNS
    assert found["turns_per_agent"] == TURNS / 8


def test_cluster_files_differ_in_their_nodes_only(bench: ModuleType, tmp_path: Path) -> None:
    found = {times: load_cluster(path).cluster for times, path in bench.clusters(tmp_path).items()}
    assert [cluster.num_engines for cluster in found.values()] == [48, 192, 576, 1152]
    shipped = load_cluster(bench.LARGEST).cluster
    assert (found[24].prefill, found[24].decode, found[24].memory) == (shipped.prefill, shipped.decode, shipped.memory)
    with pytest.raises(DualpathError, match="prefill nodes"):
        bench.resized('model = "ds-660b"\n', 8, 16)


def test_an_exported_turn_follows_the_one_before_it(bench: ModuleType, tmp_path: Path) -> None:
    bench.export_sessions(SMOKE, tmp_path / "smoke.jsonl")
    rows = _rows(tmp_path / "smoke.jsonl")
    first = [row for row in rows if "timestamp" in row]
    assert (len(rows), len(first)) == (TURNS, 8)
    assert len({row["session_id"] for row in first}) == 8
    assert all(row["delay"] == 0 for row in rows if "timestamp" not in row)
    with TraceFile.open(SMOKE) as trace, pytest.raises(DualpathError, match="turn 0"):
        list(bench.with_sessions(iter([{"input_length": 1, "timestamp": 0}]), trace))


def test_a_measurement_is_a_row_and_a_failed_one_too(bench: ModuleType, session: Any, tmp_path: Path) -> None:
    def python(code: str) -> list[str]:
        return [sys.executable, "-c", code]

    print_row = "import json; print('chatter'); print(json.dumps({'turns': 3, 'seconds': 1.5, 'cpu_s': 1.0}))"
    arms = [
        bench.Arm("good", python(print_row), {"trace": "x"}),
        bench.Arm("bad", python("raise ValueError('no such trace')"), {}),
        bench.Arm("silent", python("pass"), {}),
        bench.Arm("absent", [str(tmp_path / "nothing")], {}),
        bench.Arm("not installed", [], {}, "pip says no"),
    ]
    session.interleave("turns", arms, 2)
    rows = _rows(tmp_path / "turns.jsonl")
    assert [row["order"] for row in rows] == list(range(10))
    assert {row["arm"] for row in rows[:5]} == {row["arm"] for row in rows[5:]} == {arm.name for arm in arms}
    of = {row["arm"]: row for row in rows}
    assert (of["good"]["status"], of["good"]["turns"], of["good"]["trace"], of["good"]["repeat"]) == ("ok", 3, "x", 1)
    assert {row["status"] for name, row in of.items() if name != "good"} == {"failed"}
    assert "ValueError: no such trace" in of["bad"]["error"]
    assert "FileNotFoundError" in of["absent"]["error"]
    assert of["not installed"]["error"] == "pip says no"
    assert {"commit", "code", "host", "session", "load_before"} <= of["good"].keys()


def test_sources_must_not_change_during_a_session(
    bench: ModuleType, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "source_digest", lambda: "other")
    with pytest.raises(DualpathError, match="changed"):
        session.run("turns", bench.Arm("any", [], {}))


def test_every_group_names_its_arms_without_the_others(
    bench: ModuleType, session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: dict[str, dict[str, Any]] = {}

    def note(group: str, arm: Any, repeat: int = 0) -> dict[str, Any]:
        taken.setdefault(group, {})[arm.name] = arm
        return {"events": 7, "pending": 2}

    monkeypatch.setattr(session, "run", note)
    others = bench.Others(tmp_path / "others", install=False)
    for measure in bench.GROUPS.values():
        measure(session, others)
    assert set(taken) == {*bench.GROUPS, "warm-up"}
    assert len(taken["scaling"]) == 4
    missing = {arm.name for arms in taken.values() for arm in arms.values() if arm.why_not}
    assert missing == {"dynosim 16P32D", "dynosim 2P4D", "simpy"}
    assert all(Path(arm.command[1]).exists() for arms in taken.values() for arm in arms.values())
    assert taken["simpy"]["simpy"].command[-4:] == ["--events", "7", "--pending", "2"]
    assert not (tmp_path / "others").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Traceback:\n  x\nValueError: y\n", "ValueError: y"),
        ("ERROR: no matching distribution\nhint: see above\n\n", "ERROR: no matching distribution"),
        ("void run\n", "void run"),
        ("", "it said nothing"),
    ],
)
def test_the_reason_is_what_names_an_error(bench: ModuleType, text: str, reason: str) -> None:
    assert bench._reason(text) == reason
