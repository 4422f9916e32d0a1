"""A gate's specification: what is measured on both sides, and by how much the candidate may be worse.

It is a TOML file that is written before the run, and kept under version control. bench/README.md explains each key;
bench/gates/ has this project's own.
"""

from __future__ import annotations

import shlex
import string
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from dualpath.core.errors import PlanError
from dualpath.known_words import with_known_words

LEAST_PAIRS = 4
Counter = Literal["bytes", "hits", "routes", "decisions", "times", "events"]
Measure = Literal["jct_s", "wall_s", "benchmarks"]
Limit = Annotated[float, msgspec.Meta(gt=0, le=10)]  # 0.01: at most 1 % more
Words = dict[str, str]


class Counters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tier 1. A command that leaves a run in {out}, or several in folders of it; what of each must be equal."""

    name: str
    command: str
    equal: Annotated[list[Counter], msgspec.Meta(min_length=1)]


class Instructions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tier 2. pytest-benchmark files whose loops run under callgrind."""

    tests: str
    limit: Limit = 0.01


class Wall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tier 3. A command whose time is measured on both sides in turn, each time in a fresh process."""

    name: str
    command: str
    measure: Measure = "wall_s"
    limit: Limit = 0.02
    floor_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0  # what may be added whatever the ratio
    pairs: Annotated[int, msgspec.Meta(ge=LEAST_PAIRS, le=1000)] = 8


class Nightly(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tier 4. Every pair gets a second run of the base, and what is measured is kept."""

    history: str  # JSON lines, relative to the specification


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A gate. `base` and `candidate`: words in braces in commands, where sides differ by more than their code."""

    name: str
    what: str = ""
    counters: list[Counters] = []
    instructions: Instructions | None = None
    wall: list[Wall] = []
    nightly: Nightly | None = None
    base: Words = {}
    candidate: Words = {}

    @property
    def tiers(self) -> set[int]:
        has = {1: self.counters, 2: self.instructions, 3: self.wall, 4: self.nightly}
        return {tier for tier, probes in has.items() if probes}


def load_spec(path: Path) -> Spec:
    """Raises PlanError that names the file, the key and the remedy."""
    try:
        spec = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Spec)
    except OSError as error:
        raise PlanError(f"{path}: cannot be read: {error.strerror}") from None
    except msgspec.ValidationError as error:
        raise PlanError(f"{path}: {with_known_words(error, Spec)}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: {error}") from None
    _check(spec, path)
    return spec


def fill(command: str, words: Words) -> str:
    return command.format_map(words)


def _check(spec: Spec, path: Path) -> None:
    probes: list[Counters | Wall] = [*spec.counters, *spec.wall]
    if not probes and spec.instructions is None:
        raise PlanError(f"{path}: measures nothing; add [[counters]], [instructions] or [[wall]]")
    names = [probe.name for probe in probes]
    for name in names:
        if names.count(name) > 1:
            raise PlanError(f"{path}: two probes are called {name!r}; give each a name of its own")
    if set(spec.base) != set(spec.candidate) or "out" in spec.base:
        raise PlanError(f"{path}: [base] and [candidate] must define the same words, and not `out`")
    known = {"out", *spec.base}
    for probe in probes:
        try:
            used = {word for _, word, _, _ in string.Formatter().parse(probe.command) if word is not None}
            words = shlex.split(probe.command)
        except ValueError as error:
            raise PlanError(f"{path}: command of {probe.name!r}: {error}") from None
        if not words:
            raise PlanError(f"{path}: command of {probe.name!r} is empty")
        if unknown := used - known:
            raise PlanError(
                f"{path}: command of {probe.name!r} has {{{min(unknown)}}}; known: {', '.join(sorted(known))}"
            )
        if "out" not in used and not (isinstance(probe, Wall) and probe.measure == "wall_s"):
            raise PlanError(f"{path}: command of {probe.name!r} leaves nothing to read; let it write to {{out}}")
