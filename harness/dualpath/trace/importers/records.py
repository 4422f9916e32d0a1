"""Read JSON records with errors that say where: file, record, key, value."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dualpath.core.errors import TraceError

Record = dict[str, Any]


def json_lines(path: Path) -> Iterator[tuple[str, Record]]:
    """(where, record) of each line of a .jsonl or .jsonl.gz file."""
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    where = f"{path}: line {number}"
                    yield where, json_record(where, line)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: cannot be read ({error}); copy it again") from error


def json_record(where: str, text: str | bytes) -> Record:
    try:
        record = json.loads(text)
    except ValueError as error:
        raise TraceError(f"{where}: is not JSON ({error}); check the format, or copy it again") from error
    if not isinstance(record, dict):
        raise TraceError(f"{where}: is a JSON {type(record).__name__}, not an object; check the format")
    return record


def integer(where: str, record: Record, key: str, least: int = 0) -> int:
    """A whole number of at least `least`; raises TraceError for anything else."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or value < least:
        raise TraceError(
            f"{where}: {key} is {value!r}; it must be a whole number of at least {least}. "
            "Check the format, or correct the source."
        )
    return int(value)


def number(where: str, record: Record, key: str) -> float | None:
    """A number, or None where the key is missing or null."""
    value = record.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TraceError(f"{where}: {key} is {value!r}; it must be a number. Correct the source.")
    return float(value)


def integers(where: str, record: Record, key: str) -> tuple[int, ...]:
    value = record.get(key)
    if not isinstance(value, list) or not set(map(type, value)) <= {int}:
        raise TraceError(f"{where}: {key} must be a list of whole numbers. Check the format.")
    return tuple(value)


def objects(where: str, record: Record, key: str) -> list[Record]:
    value = record.get(key)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise TraceError(f"{where}: {key} must be a list of objects. Check the format.")
    return value


def text(where: str, record: Record, key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value:
        raise TraceError(f"{where}: {key} is {value!r}; it must be a text. Check the format.")
    return value
