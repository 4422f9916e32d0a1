"""A gate, from its specification to its verdict: measure every tier on both sides, judge, keep the rows.

    spec -> sides (two checkouts) -> counters, instructions, wall (fresh processes) -> findings -> verdict

OUT holds the two checkouts (where commits were given), rows/ with what every command left and said and with the times
of each wall probe, and verdict.json.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dualpath.core.errors import PlanError, RunError
from dualpath.gate import counters, history, instructions, wall
from dualpath.gate.sides import Side, checkout
from dualpath.gate.spec import Spec, load_spec
from dualpath.gate.verdict import Finding, Verdict
from dualpath.provenance import host, versions

TIERS = (1, 2, 3, 4)


@dataclass(frozen=True, slots=True)
class Request:
    """base, candidate: a folder with a checkout, or a commit of the one that we are in. tiers: those wanted; none
    named: all that the specification has."""

    spec: Path
    base: str
    candidate: str
    output: Path
    tiers: Collection[int] = ()


def gate(request: Request, say: Callable[[str], None]) -> Verdict:
    """Run it; say(line) hears how far it is. Raises PlanError before anything runs, RunError where nothing can be
    written."""
    spec, out = load_spec(request.spec), request.output.resolve()  # commands run in the sides' folders
    if request.tiers and (missing := set(request.tiers) - spec.tiers):
        has = ", ".join(map(str, sorted(spec.tiers)))
        raise PlanError(f"--tier {min(missing)}: {request.spec} has nothing of that tier; it has {has}")
    try:
        return _gate(request, spec, out, say)
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error.strerror}; free space, or choose another -o") from None


def _gate(request: Request, spec: Spec, out: Path, say: Callable[[str], None]) -> Verdict:
    out.mkdir(parents=True, exist_ok=True)
    tiers = request.tiers or spec.tiers
    base = checkout("base", request.base, out / "base", spec.base)
    candidate = checkout("candidate", request.candidate, out / "candidate", spec.candidate)
    if (base.commit, base.words) == (candidate.commit, candidate.words):
        say(f"base and candidate are the same, {base}: this gate says what the machine does")
    shutil.rmtree(out / "rows", ignore_errors=True)
    (out / "verdict.json").unlink(missing_ok=True)  # of a gate before
    path = request.spec.parent / spec.nightly.history if spec.nightly is not None and 4 in tiers else None
    nights = history.load(path) if path else []
    found: list[Finding] = []
    for finding in _findings(spec, base, candidate, out / "rows", tiers, say):
        found.append(finding)
        say(f"  {finding.status}: {finding.name}: {finding.found}")
    if path:
        found += _nights(path, nights, candidate, found)
    verdict = Verdict(spec, str(base), str(candidate), tuple(found))
    facts = {**verdict.as_json(), "host": host(), "versions": versions(), "at": _now()}
    (out / "verdict.json").write_text(json.dumps(facts, indent=1) + "\n")
    return verdict


def _findings(
    spec: Spec, base: Side, candidate: Side, rows: Path, tiers: Collection[int], say: Callable[[str], None]
) -> Iterator[Finding]:
    if 1 in tiers:
        for counted in spec.counters:
            say(f"[tier 1] {counted.name}")
            yield from counters.measure(counted, base, candidate, rows / _file_name(counted.name))
    if 2 in tiers and spec.instructions is not None:
        say("[tier 2] instructions of the hot loops, under callgrind")
        yield from instructions.measure(spec.instructions, base, candidate, rows / "instructions")
    if 3 in tiers:
        with_noise = spec.nightly is not None and 4 in tiers
        for timed in spec.wall:
            say(f"[tier 3] {timed.name}")
            where = rows / _file_name(timed.name)
            yield from wall.measure(
                timed, base, candidate, where, with_noise=with_noise, say=lambda line: say("  " + line)
            )


def _nights(path: Path, before: list[dict[str, object]], candidate: Side, found: list[Finding]) -> Iterator[Finding]:
    """Keep what this night measured; a finding for each series whose level has changed for the worse of late."""
    values = {finding.name: finding.value for finding in found if finding.value is not None}
    if not values:
        return
    machine = {name: host()[name] for name in ("cpu", "cores")}
    night: dict[str, object] = {"at": _now(), "commit": candidate.commit, "host": machine, "values": values}
    history.append(path, night)
    for name, nights in history.series([*before, night], machine).items():
        if name in values:
            yield _trend(name, nights)


def _trend(name: str, nights: list[history.Night]) -> Finding:
    what, limit = f"history of {name}", f"no rise of {history.LEAST_RISE:.0%} in {history.RECENT} nights"
    changes = history.changes([night.value for night in nights])
    if not changes:
        return Finding(4, what, "pass", f"level over {len(nights)} nights", limit)
    risen = [each for each in changes if each.rise > history.LEAST_RISE and len(nights) - each.first <= history.RECENT]
    last = (risen or changes)[-1]
    first = nights[last.first]
    why = f"{last.before:.6g} before, {last.after:.6g} after {first.at} (commit {first.commit})"
    shown = f"{last.rise:+.2%} since night {last.first + 1} of {len(nights)}"
    return Finding(4, what, "fail" if risen else "pass", shown, limit, why)


def _file_name(name: str) -> str:
    return "".join(sign if sign.isalnum() else "-" for sign in name)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
