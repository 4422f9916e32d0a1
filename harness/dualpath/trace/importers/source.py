"""What every importer hands over, and the arithmetic they share."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dualpath.core.errors import TraceError
from dualpath.core.trajectory import Trajectory
from dualpath.trace.schema import HashScope

NO_HASHES = ("hash_shared", "hash_new")
NO_PARENTS = ("parent_trajectory", "parent_turn")


@dataclass(slots=True)
class Source:
    """A foreign trace, about to be read. `dropped` and `changed` fill while `trajectories` is consumed."""

    description: str
    trajectories: Iterator[Trajectory]
    given: tuple[str, ...]
    derived: dict[str, str]  # column -> how
    absent: tuple[str, ...]
    assumed: tuple[str, ...] = ()  # what the format leaves open and this importer decided
    licence: str = "as the source's"
    hash_block_tokens: int | None = None
    hash_scope: HashScope | None = None
    dropped: Counter[str] = field(default_factory=Counter)  # what -> how many
    changed: Counter[str] = field(default_factory=Counter)  # values put within limits -> how many


def placed(prompt: int, previous_prompt: int, previous_output: int, common: int | None) -> tuple[int | None, int]:
    """(keep_tokens, append_tokens) of a turn of which only the prompt's length is known.

    `common`: tokens it is known to share with the previous prompt, where they differ before its end. Otherwise
    the turn is taken to continue the previous one; where it is too short for that (an edited context, dropped
    thinking), the previous prompt is kept and the previous output not.
    """
    context = previous_prompt + previous_output
    if common is None and prompt > context:
        return None, prompt - context
    keep = min(previous_prompt if common is None else common, prompt - 1)
    return keep, prompt - keep


def seconds_to_ns(seconds: float) -> int:
    if not abs(seconds) < 1e10:
        raise TraceError(f"a time of {seconds} s is beyond 300 years; correct the source")
    return max(0, round(seconds * 1e9))


def required_path(path: Path) -> None:
    if not path.exists():
        raise TraceError(f"{path}: does not exist; give the path of the trace to import")


def sha256_of(path: Path) -> str:
    """Of a file; of a folder, over names and contents of its files in name order."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for member in sorted(entry for entry in path.rglob("*") if entry.is_file()):
        digest.update(member.relative_to(path).as_posix().encode() + b"\0")
        digest.update(bytes.fromhex(sha256_of(member)))
    return digest.hexdigest()
