"""How numbers are written."""

from __future__ import annotations


def three_digits(value: float) -> str:
    """Three significant digits, trailing zeros kept: 54.4, 28.0, 0.205."""
    return f"{value:#.3g}".rstrip(".")
