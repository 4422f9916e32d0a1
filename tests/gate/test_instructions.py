"""Counting under valgrind's callgrind, for real: two small checkouts with a loop each."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dualpath.core.errors import RunError
from dualpath.gate import instructions
from dualpath.gate.callgrind import Callgrind
from dualpath.gate.sides import Label, Side
from dualpath.gate.spec import Instructions

ROOT = Path(__file__).resolve().parents[2]
LOOP = """
def test_a_loop(hot, tmp_path):
    assert "pytest-of-" not in str(tmp_path)  # where other sessions clean up
    hot(lambda: sum(number * number for number in range({num})))
"""
# A cache of 4,096 entries holds one name, and does not hold 6,000 names: each is then looked for in 51 classes.
LOOKUPS = """
Deep = object
for depth in range(50):
    Deep = type(f"Deep{{depth}}", (Deep,), {{}})
NAMES = [f"name{{number:04}}" for number in range({num})] * (6000 // {num})

def test_lookups(hot):
    hot(lambda: [hasattr(Deep, name) for name in NAMES])
"""
PROBE = Instructions("bench/test_loop.py", limit=0.01)


def _side(tmp_path: Path, label: Label, text: str) -> Side:
    root = tmp_path / label
    (root / "bench").mkdir(parents=True)
    (root / "harness").symlink_to(ROOT / "harness")
    shutil.copy(ROOT / "bench" / "conftest.py", root / "bench")
    (root / "bench" / "test_loop.py").write_text(text)
    return Side(label, root, label)


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_two_per_cent_more_work_are_seen_and_none_is_not(tmp_path: Path) -> None:
    base = LOOP.format(num=50_000) + LOOP.format(num=50_000).replace("a_loop", "another")
    candidate = LOOP.format(num=50_000) + LOOP.format(num=51_000).replace("a_loop", "another")
    sides = (_side(tmp_path, "base", base), _side(tmp_path, "candidate", candidate))
    same, more = instructions.measure(PROBE, *sides, tmp_path / "out")
    assert (same.tier, same.name, same.status) == (2, "a loop", "pass")
    assert "differs between the sides" in same.why
    assert (more.name, more.status) == ("another", "fail")
    assert more.ratio is not None
    assert 1.015 < more.ratio < 1.025
    assert f"{int(more.value or 0):,} in candidate" in more.why


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_what_the_cache_of_attribute_lookups_misses_does_not_count(tmp_path: Path) -> None:
    """Whether it does depends on where names lie in memory, which no change of a loop is to blame for."""
    hits, misses = LOOKUPS.format(num=1), LOOKUPS.format(num=6000)
    sides = (_side(tmp_path, "base", hits), _side(tmp_path, "candidate", misses))
    (found,) = instructions.measure(PROBE, *sides, tmp_path / "out")
    assert found.ratio is not None, found.why
    assert abs(found.ratio - 1) < 0.05  # it is 3.5 with them


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_loops_that_do_not_run_are_void_and_say_why(tmp_path: Path) -> None:
    sides = (_side(tmp_path, "base", LOOP.format(num=1)), _side(tmp_path, "candidate", "import no_such_module\n"))
    (found,) = instructions.measure(PROBE, *sides, tmp_path / "out")
    assert found.status == "void"
    assert "candidate ended with" in found.why
    assert "no_such_module" in (tmp_path / "out" / "candidate" / "compile.log").read_text()


def test_without_valgrind_the_tier_is_void(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    side = Side("base", tmp_path, "c")
    (found,) = instructions.measure(PROBE, side, side, tmp_path / "out")
    assert found.status == "void"
    assert "valgrind is not installed" in found.why


def test_outside_valgrind_nothing_is_counted_and_that_is_said(tmp_path: Path) -> None:
    counter = Callgrind(tmp_path / "callgrind")
    with pytest.raises(RunError, match="left no count"):
        counter.count(lambda: None)
