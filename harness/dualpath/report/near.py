"""Paths as reports name them."""

from __future__ import annotations

import re
from pathlib import Path


def near(path: Path) -> Path:
    """Relative to the working directory where the path lies below it: reports travel, machines do not."""
    path = path.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def slug(title: str) -> str:
    """A title as part of a file's name."""
    return "-".join(re.findall(r"\w+", title.lower()))
