"""Does the gate work? Planted slowdowns that it must catch, and changes of nothing that it must let pass.

    python bench/gate_proof.py [OUT] [--tries 20] [--gates 40] [--only NAME,...]      default OUT: bench/out/gate_proof

Power: each mutant is a copy of this commit with one slowdown planted in it, and goes through the tier that is named for
it here, beforehand; where that is wall time, the machine is to do nothing else. False alarms: this commit against
itself, all tiers, while a neighbour keeps one core busy. Every gate is one row of OUT/gates.jsonl; one that is there
already, of the same commit, is not run again. reports/gates.py makes the report.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from dualpath.core.errors import DualpathError, RunError
from dualpath.gate.gate import Request, gate
from dualpath.gate.sides import checkout
from dualpath.provenance import host

ROOT = Path(__file__).resolve().parents[1]
SPEC = Path("bench") / "gates" / "ci.toml"
UNCHANGED = "A against A"
PACKAGE = "harness/dualpath"


@dataclass(frozen=True, slots=True)
class Mutant:
    """edits: (text that is in the file once, what it becomes)."""

    name: str
    tier: int  # that is to catch it
    file: str
    edits: tuple[tuple[str, str], ...]


MUTANTS = (
    Mutant(
        "a sleep of 3 % in the read path",
        3,
        f"{PACKAGE}/engine/block_reader.py",
        (
            ("        found: list[int] = []\n", "        found: list[int] = []\n        began_s = time.monotonic()\n"),
            (
                "        return found[0]\n",
                "        time.sleep(0.03 * (time.monotonic() - began_s))\n        return found[0]\n",
            ),
        ),
    ),
    Mutant(
        "one extra block read per request",
        1,
        f"{PACKAGE}/engine/block_reader.py",
        (
            ("= len(message.blocks)\n", "= len(message.blocks) + 1\n"),
            ("in range(len(message.blocks)):", "in (*range(len(message.blocks)), 0):"),
        ),
    ),
    Mutant(
        "an extra copy per Layer Block",
        2,
        f"{PACKAGE}/engine/block_copy.py",
        ((".copy_(part)\n", ".copy_(part.clone())\n"),),
    ),
    Mutant(
        "a scheduler that is 30 % slower",
        2,
        f"{PACKAGE}/core/scheduler.py",
        (("        match event:\n", "        for _ in range(490):\n            pass\n        match event:\n"),),
    ),
    Mutant(
        "a path policy that ignores the queue",
        1,
        f"{PACKAGE}/core/routes.py",
        (("return hit_blocks if prefill_queue < decode_queue else 0", "return hit_blocks if turn % 2 == 0 else 0"),),
    ),
)


def plant(mutant: Mutant, root: Path) -> None:
    """Raises RunError where the code has changed so that the mutant no longer fits."""
    path = root / mutant.file
    text = path.read_text()
    for old, new in mutant.edits:
        if text.count(old) != 1:
            raise RunError(f"{path}: {old!r} is there {text.count(old)} times; adapt MUTANTS in bench/gate_proof.py")
        text = text.replace(old, new)
    path.write_text(text)


@contextmanager
def neighbour() -> Iterator[None]:
    """Somebody else's work on one core. Raises RunError where it did not last."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
    try:
        yield
        if process.poll() is not None:
            raise RunError(f"the neighbour ended with {process.returncode} before the gate did")
    finally:
        process.kill()
        process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, default=ROOT / "bench" / "out" / "gate_proof")
    parser.add_argument("--tries", type=int, default=20, help="of each mutant")
    parser.add_argument("--gates", type=int, default=40, help="of nothing changed")
    parser.add_argument("--commit", default="HEAD", help="what is gated; to go on with rows of an earlier one")
    parser.add_argument("--only", help="names of mutants; 'A against A': no mutant")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    known = [*(mutant.name for mutant in MUTANTS), UNCHANGED]
    wanted = arguments.only.split(",") if arguments.only else known
    if unknown := set(wanted) - set(known):
        parser.error(f"--only {min(unknown)!r}: known are {', '.join(known)}")
    base = checkout("base", arguments.commit, out / "base", {})
    planned = {**{mutant.name: arguments.tries for mutant in MUTANTS}, UNCHANGED: arguments.gates}
    # Each as far along as the others at any time, so that one that was interrupted says something of all.
    todo = sorted(
        ((name, attempt) for name, tries in planned.items() for attempt in range(tries)),
        key=lambda step: step[1] / planned[step[0]],
    )
    rows = out / "gates.jsonl"
    done = {(row["mutant"], row["try"]) for row in _rows(rows) if row["commit"] == base.commit}
    mutants = {mutant.name: mutant for mutant in MUTANTS}
    for name, attempt in todo:
        if (name, attempt) in done or name not in wanted:
            continue
        candidate, tiers = out / "candidates" / name.replace(" ", "-"), (1, 2, 3)
        checkout("candidate", base.commit, candidate, {})
        if mutant := mutants.get(name):
            plant(mutant, candidate)
            tiers = (mutant.tier,)
        request = Request(base.root / SPEC, str(base.root), str(candidate), out / "gate", tiers)
        began_s = time.monotonic()
        with neighbour() if mutant is None else nullcontext():
            verdict = gate(request, lambda line: None)
        row = {
            "mutant": name,
            "try": attempt,
            "tiers": tiers,
            "commit": base.commit,
            "seconds": round(time.monotonic() - began_s, 1),
            "host": host(),
            **verdict.as_json(),
        }
        with rows.open("a") as kept:
            kept.write(json.dumps(row) + "\n")
        print(f"{name}, try {attempt + 1}: {verdict.headline} ({row['seconds']} s)", file=sys.stderr, flush=True)
    return 0


def _rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DualpathError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
