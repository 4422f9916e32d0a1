from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from dualpath.core.errors import RunError
from dualpath.gate.counters import COUNTERS, difference
from dualpath.gate.spec import Counter
from dualpath.results.run import Run
from synthetic import MS, S, link, turn, write_run

TURNS = [turn("a", 0, 0, S), turn("a", 1, S, 2 * S), turn("b", 0, 0, S)]
LINKS = [link(0, 600), link(100 * MS, 400), link(0, 50, resource="cnic", engine=1, node=1, direction="write")]


def _differ(counter: Counter, base: Run, candidate: Run) -> tuple[int, str] | None:
    (key, ours), (_, theirs) = COUNTERS[counter](base), COUNTERS[counter](candidate)
    return difference(key, ours, theirs)


def _first(counter: Counter, base: Run, candidate: Run) -> str:
    found = _differ(counter, base, candidate)
    assert found is not None
    return found[1]


def _run(path: Path, turns: list[dict[str, Any]] = TURNS, links: list[dict[str, Any]] = LINKS, **keys: Any) -> Run:
    return Run.load(write_run(path, turns, links, **keys))


def test_bytes_are_compared_in_sum_whatever_the_time(tmp_path: Path) -> None:
    base = _run(tmp_path / "base")
    later = _run(tmp_path / "later", links=[link(500 * MS, 1000), LINKS[2]])
    assert _differ("bytes", base, later) is None
    more = _run(tmp_path / "more", links=[*LINKS, link(0, 64)])
    assert _differ("bytes", base, more) == (
        1,
        "first: resource snic, node 0, direction read, route prefill, lane kv: bytes 1,000 in base, 1,064 in candidate",
    )
    fewer = _run(tmp_path / "fewer", links=LINKS[:2])
    assert "only in base: bytes 50" in _first("bytes", base, fewer)
    assert "only in candidate: bytes 50" in _first("bytes", fewer, base)


def test_a_nics_own_counter_is_left_out(tmp_path: Path) -> None:
    base = _run(tmp_path / "base")
    port = _run(tmp_path / "port", links=[*LINKS, link(0, 5, resource="port", route="all", lane="all")])
    assert _differ("bytes", base, port) is None


def test_the_first_other_choice_is_named(tmp_path: Path) -> None:
    base = _run(tmp_path / "base")
    other = _run(tmp_path / "other", [TURNS[0], {**TURNS[1], "route": "decode"}, {**TURNS[2], "decode_engine": 2}])
    found = _differ("routes", base, other)
    assert found == (2, "first: trajectory a, turn 1: route prefill in base, decode in candidate")
    assert _differ("hits", base, other) is None
    late = _run(tmp_path / "late", [*TURNS[:2], {**TURNS[2], "end_ns": S + 1, "second_token_ns": None}])
    assert "trajectory b, turn 0" in _first("times", base, late)
    assert "second_token_ns 875,000,000 in base, None in candidate" in _first("times", base, late)


def test_events_of_a_simulation_and_decisions_where_they_were_kept(tmp_path: Path) -> None:
    real = _run(tmp_path / "real")
    for counter, words in (("events", "this run is real"), ("decisions", "--decisions")):
        with pytest.raises(RunError, match=words):
            COUNTERS[counter](real)  # type: ignore[index]
    runs = []
    for events in (10, 11):
        directory = write_run(tmp_path / str(events), TURNS)
        facts = json.loads((directory / "run.json").read_text())
        (directory / "run.json").write_text(json.dumps({**facts, "simulated": {"events": events}}))
        runs.append(Run.load(directory))
    assert _differ("events", *runs) == (1, "events 10 in base, 11 in candidate")
    assert _differ("events", runs[0], runs[0]) is None


def test_another_order_is_a_difference() -> None:
    base = pl.DataFrame({"name": ["a", "b"], "value": [1, 2]})
    assert difference(["name"], base, base.reverse()) == (2, "they come in another order")
