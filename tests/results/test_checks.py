from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from dualpath.results.checks import RUN_MISSING, at_least, at_most, write_checks


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [(1.0, True, True), (1.1, True, False), (0.9, False, True), (None, False, False)],
)
def test_a_check_passes_on_its_side_of_the_limit(value: float | None, low: bool, high: bool) -> None:
    assert at_least("a", "what", value, 1.0).passed is low
    assert at_most("a", "what", value, 1.0).passed is high


def test_checks_json_has_the_declared_keys_and_only_json_numbers(tmp_path: Path) -> None:
    path = tmp_path / "checks.json"
    write_checks(
        [
            at_least("cpu.util.a", "how busy", 0.96, 0.95, rows=["r0", "r1"]),
            at_most("cpu.null", "overhead", None, 0.5, unit="ms", note=RUN_MISSING),
            at_most("cpu.x", "failed", math.inf, 1.0, note="n"),
        ],
        path,
    )
    found = json.loads(path.read_text())
    assert found[0] == {
        "id": "cpu.util.a",
        "what": "how busy",
        "value": 0.96,
        "unit": "1",
        "bound": ">= 0.95",
        "pass": True,
        "note": "",
        "rows": ["r0", "r1"],
    }
    assert (found[1]["value"], found[1]["pass"], found[1]["note"]) == (None, False, "run missing")
    assert (found[2]["value"], found[2]["note"]) == (None, "n; value is not finite")
