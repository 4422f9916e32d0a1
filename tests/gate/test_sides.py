"""Each side runs its own code, wherever the gate itself was started from."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from dualpath.gate.sides import Job, Side, run, run_together

PACKAGE = Path(__file__).resolve().parents[2] / "harness" / "dualpath"


def _side(tmp_path: Path) -> Side:
    """A checkout with the little that chooses where compiled code is kept."""
    package = tmp_path / "harness" / "dualpath"
    package.mkdir(parents=True)
    for name in ("__init__.py", "compile_cache.py"):
        shutil.copy(PACKAGE / name, package)
    (package / "core").mkdir()
    (package / "core" / "rule.py").write_text("RULE = 1\n")
    return Side("base", tmp_path, "c")


def test_a_side_imports_its_own_package_and_keeps_its_own_compiled_code(tmp_path: Path) -> None:
    side = _side(tmp_path / "side")
    command = "import dualpath, os; print(dualpath.__file__); print(os.environ['NUMBA_CACHE_DIR'])"
    job = Job(side, side.command(["python", "-c", command]), tmp_path / "out" / "first")
    assert run(job).problem == ""
    where, cache = job.log.read_text().splitlines()
    assert where.startswith(str(side.root))
    assert cache.startswith(str(side.root))
    (side.root / "harness" / "dualpath" / "core" / "rule.py").write_text("RULE = 2\n")
    assert run(job).problem == ""
    assert job.log.read_text().splitlines() != [where, cache]  # other code, another folder


def test_commands_run_at_once_and_each_is_judged(tmp_path: Path) -> None:
    side = _side(tmp_path / "side")
    meet = "import sys, time, pathlib\npathlib.Path(sys.argv[1]).touch()\n"
    meet += "while not pathlib.Path(sys.argv[2]).exists(): time.sleep(0.01)\nsys.exit(sys.argv[3])\n"
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    words = [(a, b, ""), (b, a, "no luck")]  # each waits for the other
    jobs = [Job(side, [sys.executable, "-c", meet, *each], tmp_path / "out" / each[2]) for each in words]
    first, second = run_together(jobs)
    assert "ended with 1: it said nothing" in first.problem
    assert "no luck" in second.problem


def test_a_command_that_does_not_exist_is_told(tmp_path: Path) -> None:
    assert run(Job(_side(tmp_path), ["no-such-program"], tmp_path / "out" / "x")).problem == (
        "no-such-program: No such file or directory"
    )
