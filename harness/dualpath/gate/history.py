"""Tier 4: what nights measured, one JSON line each, and where it changed.

A slow drift passes every pairwise gate: each night is within the limit of the one before. Over the whole history a
shift shows. Change points are found by splitting where the means of ranks left and right differ most, as long as random
orders of the same nights hardly ever differ as much, and then again within each part. Ranks, because a few odd nights
must not decide. A drift is split into steps that may all be small, so a level is held against the lowest one since the
last rise that failed, not against the one just before it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dualpath.core.errors import RunError

LEAST_NIGHTS = 5  # on each side of a change
SIGNIFICANCE = 0.001  # how often chance alone may show as much, per split: it is looked at every night
LEAST_RISE = 0.01  # of a level, that fails
RECENT = 14  # nights for which it fails; whoever has not undone it by then has accepted it
_ORDERS = 1999  # random ones
_SEED = 0

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Night:
    """One value of a series."""

    value: float
    at: str
    commit: str


@dataclass(frozen=True, slots=True)
class Change:
    """Between two nights. first: index of the first one after it. after: median from there to the next change. before:
    the lowest level since the last rise by over LEAST_RISE, or since the beginning."""

    first: int
    before: float
    after: float

    @property
    def rise(self) -> float:
        return self.after / self.before - 1


def append(path: Path, night: Mapping[str, object]) -> None:
    """One line, written whole; `load` has read those before it. Raises RunError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as history:
            if history.tell():
                history.seek(-1, os.SEEK_END)
                if history.read() != b"\n":  # somebody's editor took the last one off
                    history.write(b"\n")
            history.write(json.dumps(night).encode() + b"\n")
    except OSError as error:
        raise RunError(f"{path}: the history cannot be written: {error.strerror}") from None


def load(path: Path) -> list[dict[str, object]]:
    """Raises RunError that names the line."""
    if not path.exists():
        return []
    nights: list[dict[str, object]] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            night = json.loads(line)
        except ValueError as error:
            raise RunError(f"{path}, line {number}: not JSON ({error}); delete the line if it was cut off") from None
        if not isinstance(night, dict) or not isinstance(night.get("values"), dict):
            raise RunError(f"{path}, line {number}: no object with `values`")
        nights.append(night)
    return nights


def series(nights: Iterable[Mapping[str, object]], machine: Mapping[str, object]) -> dict[str, list[Night]]:
    """What was measured on machines like this one, by name; a night that lacks one is left out there."""
    found: dict[str, list[Night]] = {}
    for night in nights:
        values = night["values"]
        assert isinstance(values, dict), "load has checked it"
        if night.get("host") == machine:
            for name, value in values.items():
                found.setdefault(name, []).append(Night(float(value), str(night.get("at")), str(night.get("commit"))))
    return found


def changes(values: list[float]) -> list[Change]:
    """Where the level of a series changes, in order."""
    array, rng = np.array(values), np.random.default_rng(_SEED)
    places = sorted(_splits(array, 0, len(array), rng))
    level, *levels = (float(np.median(part)) for part in np.split(array, places))
    found = []
    for place, after in zip(places, levels, strict=True):
        found.append(Change(place, level, after))
        level = after if found[-1].rise > LEAST_RISE else min(level, after)
    return found


def _splits(values: Array, start: int, end: int, rng: np.random.Generator) -> list[int]:
    if end - start < 2 * LEAST_NIGHTS:
        return []
    _, places, counts = np.unique(values[start:end], return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]  # equal nights share theirs
    place, difference = _best(ranks)
    as_much = sum(_best(rng.permutation(ranks))[1] >= difference for _ in range(_ORDERS))
    if (as_much + 1) / (_ORDERS + 1) > SIGNIFICANCE:
        return []
    middle = start + place
    return [*_splits(values, start, middle, rng), middle, *_splits(values, middle, end, rng)]


def _best(ranks: Array) -> tuple[int, float]:
    """Where the means of both sides differ most, for their sizes; and by how much."""
    num = len(ranks)
    places = np.arange(LEAST_NIGHTS, num - LEAST_NIGHTS + 1)
    left = np.cumsum(ranks)[places - 1]
    difference = np.abs(left / places - (ranks.sum() - left) / (num - places)) * np.sqrt(places * (num - places) / num)
    best = int(np.argmax(difference))
    return int(places[best]), float(difference[best])
