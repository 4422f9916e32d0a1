"""Tier 2: instructions of the hot loops, under callgrind: the same on a busy machine as on an idle one.

The loops are pytest-benchmark's (bench/test_hot_loops.py), each side's own. Two runs of one side differ by one or two
thousandths, so one run of each is enough. Counts of two machines, or of two versions of Python, cannot be compared:
both sides run here and now.

What Python's lookup of an attribute in a type executes is left out. Its cache finds entries by the addresses of names,
and where two of a loop's names meet in one entry, each use of them searches all base classes: of 18 runs that differed
only in what was allocated before, two counted 2 and 11 % more; without the lookups all agreed within 0.14 %.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from dualpath.core.errors import RunError
from dualpath.gate import benchmarks
from dualpath.gate.sides import Job, Side, run_together
from dualpath.gate.spec import Instructions
from dualpath.gate.verdict import Finding, Status

DUMPS = "DUALPATH_CALLGRIND"  # environment: where callgrind writes, for bench/conftest.py
_JSON = "benchmarks.json"
_PLUGINS = ("-p", "no:cacheprovider", "-p", "pytest_benchmark.plugin")  # no others: under valgrind imports take long
_WITHOUT_TYPE_LOOKUPS = ("--toggle-collect=_PyType_Lookup", "--collect-atstart=yes")  # in this order
# Compiled for any x86-64, so that what valgrind runs was compiled without it; and libraries keep to one thread.
_PLAIN = {
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "NUMBA_CPU_NAME": "generic",
    "NUMBA_CPU_FEATURES": "",
    "OMP_NUM_THREADS": "1",
    "ARROW_NUM_THREADS": "1",
    "POLARS_MAX_THREADS": "1",
}


def measure(probe: Instructions, base: Side, candidate: Side, out: Path) -> list[Finding]:
    """A finding for each loop, or one that says why there is none."""
    limit = f"+{probe.limit:.2%}"
    try:
        if shutil.which("valgrind") is None:
            raise RunError("valgrind is not installed (Debian: apt install valgrind)")
        ours, theirs = count((base, candidate), probe.tests, out)
    except RunError as error:
        return [Finding(2, "instructions", "void", "-", limit, str(error))]
    files = [side.root / probe.tests for side in (base, candidate)]
    is_same = not all(file.is_file() for file in files) or files[0].read_bytes() == files[1].read_bytes()
    remark = "" if is_same else f"{probe.tests} differs between the sides: the loop may do other work"
    found: list[Finding] = []
    status: Status
    for name in dict.fromkeys([*ours, *theirs]):
        if name not in ours or name not in theirs:
            side, status = ("candidate", "pass") if name in theirs else ("base", "void")
            found.append(Finding(2, _short(name), status, "-", limit, f"only in {side}: nothing to compare with"))
            continue
        ratio = theirs[name] / ours[name]
        is_more = ratio > 1 + probe.limit
        shown = f"{ratio - 1:+.3%} ({theirs[name] / 1e6:,.1f} M)"
        why = f"{ours[name]:,} in base, {theirs[name]:,} in candidate" if is_more else remark
        status = "fail" if is_more else "pass"
        found.append(Finding(2, _short(name), status, shown, limit, why, ratio, value=theirs[name]))
    return found


def count(sides: Sequence[Side], tests: str, out: Path) -> list[dict[str, int]]:
    """Instructions by benchmark, of each side; all sides at once, as counts do not mind. Raises RunError."""
    valgrind = ["valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no", *_WITHOUT_TYPE_LOOKUPS]
    compiling, counting = list[Job](), list[Job]()
    # Where pytest keeps temporary files of all its sessions, those that end at once fail now and then (8 of 400, five
    # at a time) over cleaning up each other's: so each side has a place of its own.
    with TemporaryDirectory() as temporary:
        for number, side in enumerate(sides):
            where, own = out / side.label, f"--basetemp={temporary}/{number}"
            pytest = ["python", "-m", "pytest", "-q", *_PLUGINS, "--import-mode=importlib", own, tests]
            compiled = side.command([*pytest, "--benchmark-disable"])
            compiling.append(Job(side, compiled, where / "compile", _PLAIN))
            dumps = where / "callgrind"
            counted = [
                *valgrind,
                f"--callgrind-out-file={dumps}",
                *side.command([*pytest, f"--benchmark-json={where / _JSON}"]),
            ]
            counting.append(Job(side, counted, where / "count", {**_PLAIN, DUMPS: str(dumps)}))
        for jobs in (compiling, counting):
            for ran in run_together(jobs):
                if ran.problem:
                    raise RunError(ran.problem)
    return [benchmarks.instructions(out / side.label / _JSON) for side in sides]


def _short(name: str) -> str:
    return name.rpartition("::")[2].removeprefix("test_").replace("_", " ")
