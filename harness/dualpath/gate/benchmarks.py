"""What pytest-benchmark wrote (--benchmark-json): each benchmark's fastest time, and its instructions if counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dualpath.core.errors import RunError

INSTRUCTIONS = "instructions"  # in a benchmark's extra_info


def fastest_s(path: Path) -> dict[str, float]:
    """By name. The fastest round says most: what else a machine does makes others slower, never faster. Raises
    RunError."""
    return {found["fullname"]: float(found["stats"]["min"]) for found in _benchmarks(path)}


def instructions(path: Path) -> dict[str, int]:
    """By name. Raises RunError where a benchmark was not counted."""
    counts: dict[str, int] = {}
    for found in _benchmarks(path):
        if INSTRUCTIONS not in found["extra_info"]:
            raise RunError(f"{path}: {found['fullname']} was not counted; is it run by the fixture `hot`?")
        counts[found["fullname"]] = int(found["extra_info"][INSTRUCTIONS])
    return counts


def _benchmarks(path: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads(path.read_text())["benchmarks"]
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}; give the command --benchmark-json") from None
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: not what pytest-benchmark writes ({error})") from None
    if not found:
        raise RunError(f"{path}: no benchmark ran")
    return list(found)
