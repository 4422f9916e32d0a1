from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dualpath import compile_cache
from dualpath.compile_cache import PACKAGE, SIMULATION, source_digest


@pytest.mark.parametrize(
    ("source", "counts"),
    [
        ("core/steps.py", True),
        ("sim/machine.py", True),
        ("trace/starts.py", True),  # when agents arrive
        ("trace/select.py", True),
        ("results/tables.py", True),
        ("plan.py", True),
        ("simulate.py", True),
        ("report/style.py", False),
        ("engine/worker.py", False),
    ],
)
def test_a_simulation_is_of_these_sources_as_long_as_none_that_decides_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, counts: bool
) -> None:
    package = tmp_path / "dualpath"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(compile_cache, "PACKAGE", package)
    before = source_digest()
    with (package / source).open("a") as changed:
        changed.write("# changed\n")
    assert (source_digest() != before) == counts


def test_every_part_is_there() -> None:
    assert all((PACKAGE / part).exists() for part in SIMULATION)
