"""Machine code and plain Python decide the same: numba's integers wrap and its indices are unchecked, Python's not."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from dualpath.core.arms import ARMS
from fixed_world import NUM_REQUESTS, is_compiled, said


@pytest.fixture(scope="module")
def in_plain_python() -> dict[str, list[str]]:
    program = sys.modules["fixed_world"].__file__
    assert program is not None
    done = subprocess.run(
        [sys.executable, "-W", "error", program],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert not printed["compiled"]
    answers: dict[str, list[str]] = printed["said"]
    return answers


@pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="nothing is compiled here")
@pytest.mark.parametrize("arm", sorted(ARMS))
def test_compiled_and_plain_python_answer_alike(arm: str, in_plain_python: dict[str, list[str]]) -> None:
    assert is_compiled()
    compiled = said(arm)
    assert len(compiled) > 5 * NUM_REQUESTS
    assert compiled == in_plain_python[arm]
