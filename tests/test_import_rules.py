"""Dependencies point one way, read from the source: no module is imported to check it.

cli > replay > engine | sim > results > trace > core,  replay > report > results,  paper > series, workers, plan, report
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "harness/dualpath/"
PROGRAM_FOLDERS = ("bench", "traces", "reports")

# Part of the package -> parts it may import besides itself. `engine` and `sim` do not know each other.
BELOW: dict[str, frozenset[str]] = {
    "__init__": frozenset({"compile_cache"}),
    "compile_cache": frozenset(),
    "known_words": frozenset(),
    "core": frozenset(),
    "trace": frozenset({"core"}),
    "results": frozenset({"trace", "core"}),
    "report": frozenset({"results", "trace", "core"}),
    "gate": frozenset({"results", "trace", "core", "provenance", "known_words"}),
    "engine": frozenset({"results", "trace", "core"}),
    "sim": frozenset({"results", "trace", "core", "known_words"}),
    "paper": frozenset({"report", "results", "trace", "core", "plan", "series", "workers"}),
    "cluster_file": frozenset({"engine", "core", "known_words"}),
    "provenance": frozenset({"core"}),
    "doctor": frozenset({"engine", "core"}),
}
# A module beside replay.py that is not named above wires parts, as replay.py does; only cli and paper are above it.
WIRES = frozenset({*BELOW, "replay"}) - {"paper"}
# The standard library's pure parts; arrays, and what compiles functions over them.
PURE = frozenset(
    {
        "numpy",
        "numba",
        "llvmlite",
        "zlib",
        "__future__",
        "array",
        "bisect",
        "collections",
        "dataclasses",
        "enum",
        "fractions",
        "functools",
        "heapq",
        "itertools",
        "math",
        "typing",
    }
)


class Import(NamedTuple):
    line: int
    module: str  # absolute; "." where relative
    names: tuple[str, ...]  # of `from module import names`
    at_top: bool  # runs when the file is imported


def imports(tree: ast.AST, at_top: bool = True) -> Iterator[Import]:
    """Every import in a file, also inside functions and under `if TYPE_CHECKING`, also by name through importlib."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield Import(node.lineno, alias.name, (), at_top)
            case ast.ImportFrom(module=module, names=names, level=level):
                if level:
                    yield Import(node.lineno, ".", (), at_top)
                else:
                    yield Import(node.lineno, module or "", tuple(alias.name for alias in names), at_top)
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield Import(node.lineno, name, (), at_top)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from imports(node, at_top and not inside)


def parts(found: Import) -> list[str]:
    """Parts of the package that an import names; "" for the package itself."""
    names = found.module.split(".")
    if names[0] != "dualpath":
        return []
    return [names[1]] if len(names) > 1 else list(found.names) or [""]


def violations(path: str, source: str, programs: frozenset[str]) -> list[str]:
    """path: relative to the repository, with slashes. programs: names of the files in the program folders."""
    wrong: list[str] = []
    for found in imports(ast.parse(source, path)):
        rule = _broken(path, found, programs)
        if rule is not None:
            wrong.append(f"{path}:{found.line}: imports {found.module}: {rule}")
    return wrong


def _broken(path: str, found: Import, programs: frozenset[str]) -> str | None:
    if found.module == ".":
        return "relative imports are not used"
    top = found.module.split(".")[0]
    if top == "pyverbs" and found.at_top and path != f"{PACKAGE}engine/rdma/verbs.py":
        return "pyverbs is optional: only engine/rdma/verbs.py imports it when imported itself"
    if path.startswith(PACKAGE):
        return _broken_in_package(path, found, top)
    if path.split("/")[0] in PROGRAM_FOLDERS and (top in programs or top in PROGRAM_FOLDERS):
        return "programs never import each other; what two need belongs into the package, with a test"
    return None


def _broken_in_package(path: str, found: Import, top: str) -> str | None:
    part, _, inside = path.removeprefix(PACKAGE).partition("/")
    part = part.removesuffix(".py")
    if inside and part not in BELOW and part != "cli":
        return f"no rule for the package {part}: add it to BELOW"
    if part == "core" and top not in PURE and top != "dualpath":
        return f"core imports only itself and {', '.join(sorted(PURE))}"
    if top in PROGRAM_FOLDERS:
        return "the package never imports programs"
    if part == "cli":
        return None
    allowed = BELOW.get(part, WIRES) | {part}
    for name in parts(found):
        if name in BELOW or name in ("replay", "cli"):
            if name not in allowed:
                return f"{part} may import {', '.join(sorted(allowed))}"
        elif name and name not in allowed and part in BELOW and (ROOT / PACKAGE / f"{name}.py").exists():
            return f"{part} is below dualpath.{name}"
    return None


def sources() -> list[Path]:
    return sorted(
        path
        for folder in ("harness/dualpath", *PROGRAM_FOLDERS, "tests")
        for path in (ROOT / folder).rglob("*.py")
        if "out" not in path.relative_to(ROOT).parts
    )


def program_names() -> frozenset[str]:
    return frozenset(
        path.stem
        for folder in PROGRAM_FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if "out" not in path.relative_to(ROOT).parts  # a run may leave a virtual environment there
    )


def test_dependencies_point_one_way() -> None:
    programs = program_names()
    found = [
        each
        for path in sources()
        for each in violations(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"), programs)
    ]
    assert not found, "\n".join(found)


def test_the_checker_sees_the_code() -> None:
    """Or an empty folder would pass."""
    paths = {path.relative_to(ROOT).as_posix() for path in sources()}
    assert {f"{PACKAGE}core/scheduler.py", f"{PACKAGE}replay.py", "tests/test_import_rules.py"} <= paths
    assert all((ROOT / PACKAGE / part).is_dir() for part in ("core", "trace", "results", "report", "engine"))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("core/x.py", "import random"),
        ("core/x.py", "import time"),
        ("core/x.py", "from os import path"),
        ("core/x.py", "import torch"),
        ("core/x.py", "import collections, threading"),
        ("core/x.py", "def f():\n    import polars"),
        ("core/x.py", "from dualpath.trace.reader import TraceFile"),
        ("core/x.py", "import dualpath.engine.store"),
        ("core/x.py", "from dualpath import results"),
        ("core/x.py", "__import__('dualpath.sim')"),
        ("core/x.py", "from .budget import Budget"),
        ("core/x.py", "from dualpath.cluster_file import load_cluster"),
        ("engine/x.py", "from dualpath.sim.clock import Clock"),
        ("engine/x.py", "import dualpath.replay"),
        ("engine/x.py", "from dualpath import cli"),
        ("sim/x.py", "from dualpath.engine.store import Location"),
        ("sim/deep/x.py", "if TYPE_CHECKING:\n    from dualpath.engine.store import Location"),
        ("results/x.py", "from dualpath.engine.meter import BUCKET_NS"),
        ("results/x.py", "from dualpath.report.page import write"),
        ("report/x.py", "from dualpath.sim import costs"),
        ("report/x.py", "from dualpath.paper.numbers import Number"),
        ("series.py", "from dualpath.paper.cells import Cell"),
        ("paper/x.py", "from dualpath.simulate import simulate"),
        ("paper/x.py", "from dualpath.replay import replay"),
        ("paper/x.py", "from dualpath.sim.profile import Profile"),
        ("paper/x.py", "from dualpath.engine.store import Location"),
        ("report/x.py", "import importlib\nimportlib.import_module('dualpath.engine')"),
        ("trace/importers/x.py", "from dualpath.results.run import Run"),
        ("__init__.py", "from dualpath.replay import replay"),
        ("replay.py", "from dualpath.cli import main"),
        ("simulate.py", "from dualpath import cli"),
        ("cluster_file.py", "from dualpath.trace.schema import MAX_TOKENS"),
        ("provenance.py", "from dualpath.engine.direct_io import filesystem_of"),
        ("doctor.py", "from dualpath.results.run import Run"),
        ("doctor.py", "import pyverbs"),
        ("engine/transport.py", "try:\n    from pyverbs.qp import QP\nexcept ImportError:\n    QP = None"),
        ("engine/transport.py", "class A:\n    import pyverbs.device"),
        ("engine/x.py", "from . import store"),
        ("gadgets/x.py", "import json"),
        ("replay.py", "import bench.cpu"),
    ],
)
def test_a_planted_violation_is_caught(path: str, source: str) -> None:
    assert violations(PACKAGE + path, source, frozenset({"cpu"}))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("bench/sweep.py", "import cpu"),
        ("reports/cpu.py", "from bench.cpu import ARMS"),
        ("traces/make.py", "from reports import cpu"),
        ("bench/suites/test_core.py", "from cpu import run"),
        ("bench/sweep.py", "from .cpu import run"),
        ("bench/sweep.py", "import pyverbs"),
        ("tests/core/test_x.py", "from ..results import synthetic"),
    ],
)
def test_a_planted_violation_in_a_program_is_caught(path: str, source: str) -> None:
    assert violations(path, source, frozenset({"cpu", "make", "sweep"}))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("core/x.py", "from __future__ import annotations\nimport heapq\nfrom collections.abc import Sequence"),
        ("core/x.py", "from dualpath.core.heap import Heap\nimport dualpath.core.cluster"),
        (
            "engine/x.py",
            "import torch\nfrom dualpath.results.tables import TABLES\nfrom dualpath.core.hops import HOPS",
        ),
        ("engine/rdma/verbs.py", "import pyverbs.device as device"),
        ("doctor.py", "def look():\n    import pyverbs\nfrom dualpath.engine.direct_io import filesystem_of"),
        ("report/x.py", "import seaborn\nfrom dualpath.results.run import Run\nfrom dualpath.report import style"),
        (
            "replay.py",
            "from dualpath.engine import backend\nfrom dualpath.sim import run\nimport dualpath.cluster_file",
        ),
        ("simulate.py", "from dualpath.replay import Plan\nfrom dualpath import report"),
        (
            "paper/x.py",
            "from dualpath.series import is_done\nfrom dualpath.plan import Plan\nfrom dualpath import report",
        ),
        ("cli/x.py", "import click\nfrom dualpath.replay import replay\nfrom dualpath import doctor, __version__"),
        ("trace/x.py", "import dualpath\nfrom dualpath import __version__"),
    ],
)
def test_what_is_allowed_passes(path: str, source: str) -> None:
    assert violations(PACKAGE + path, source, frozenset({"cpu"})) == []


def test_programs_may_import_the_package_and_libraries() -> None:
    source = "import polars\nfrom dualpath.report.write import write\nfrom dualpath.replay import replay"
    assert violations("reports/cpu.py", source, frozenset({"cpu", "make"})) == []
