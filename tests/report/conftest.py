"""Gives the tests of this folder the builder of synthetic run directories, and the browser."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "results"), str(HERE)]
