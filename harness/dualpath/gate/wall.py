"""Tier 3: wall time, in pairs: base, candidate, candidate, base, and so on, each in a fresh process.

The candidate may take `limit` longer, or `floor_s`; it fails where neither is shown with 95 % confidence. With a second
run of the base in each pair (tier 4) the limit is widened to what base against base shows: what the machine does by
itself is no change of the code. One that does more than MOST_WIDENED times the limit by itself cannot judge: void.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean

from dualpath.core.errors import RunError
from dualpath.gate.benchmarks import fastest_s
from dualpath.gate.paired import paired_ratio
from dualpath.gate.sides import Job, Ran, Side, run
from dualpath.gate.spec import Measure, Wall
from dualpath.gate.verdict import Finding
from dualpath.results.bound import jct_s
from dualpath.results.compare import compare
from dualpath.results.run import Run

MOST_WIDENED = 2
BENCHMARKS = "benchmarks.json"  # in {out}
Times = dict[str, float]  # by what was timed: the command itself, or each of its benchmarks
Sample = tuple[Times, Path]  # and what the command left


def measure(
    probe: Wall, base: Side, candidate: Side, out: Path, *, with_noise: bool, say: Callable[[str], None]
) -> list[Finding]:
    """Findings of one probe: of its command, or of each benchmark. Keeps every time in OUT/times.jsonl."""
    sides = {"base": base, "candidate": candidate, **({"again": base} if with_noise else {})}
    samples: dict[str, list[Sample]] = {column: [] for column in sides}
    out.mkdir(parents=True, exist_ok=True)
    turns = order(list(sides), probe.pairs, warms_up=probe.measure != "jct_s")  # a run's clock starts when it is warm
    with (out / "times.jsonl").open("w") as rows:
        for position, (pair, column) in enumerate(turns):
            side, where = sides[column], out / f"{position:03}-{column}"
            if probe.measure == "benchmarks":
                where.mkdir()  # pytest-benchmark makes none
            ran = run(Job(side, side.filled(probe.command, where), where))
            try:
                times = _times(probe.measure, ran)
            except RunError as error:
                return [Finding(3, probe.name, "void", "-", _limit(probe, probe.limit), str(error))]
            rows.write(json.dumps({"pair": pair, "column": column, "commit": side.commit, "times_s": times}) + "\n")
            rows.flush()
            if pair is not None:
                samples[column].append((times, where))
                say(f"pair {pair + 1} of {probe.pairs}, {column}: {_shown(times)}")
    columns = {column: [times for times, _ in found] for column, found in samples.items()}
    try:
        return judge(probe, columns, _sessions(samples) if probe.measure == "jct_s" else "")
    except RunError as error:  # the sides did other work
        return [Finding(3, probe.name, "void", "-", _limit(probe, probe.limit), str(error))]


def _shown(times: Times) -> str:
    return ", ".join(f"{each:.4g} s" for each in times.values())


def order(columns: Sequence[str], pairs: int, *, warms_up: bool) -> Iterator[tuple[int | None, str]]:
    """Number of the pair, and whose turn it is: each pair in the reverse order of the one before. Pair None warms up,
    as a side's first command compiles."""
    for column in columns[:2] if warms_up else ():
        yield None, column
    for pair in range(pairs):
        for column in columns if pair % 2 == 0 else reversed(columns):
            yield pair, column


def judge(probe: Wall, columns: dict[str, list[Times]], remark: str = "") -> list[Finding]:
    """columns: base, candidate, and `again` where the base ran twice: [pairs] each."""
    names = list(columns["base"][0])
    for times in itertools.chain(*columns.values()):
        why = ""
        if unlike := set(names) ^ set(times):
            why = f"only one side has {min(unlike)}"
        elif odd := [name for name in names if not 0 < times[name] < math.inf]:
            why = f"{odd[0]} is {times[odd[0]]}, which is no time"
        if why:
            return [Finding(3, probe.name, "void", "-", _limit(probe, probe.limit), why)]
    return [
        _judge(probe, name, {column: [each[name] for each in found] for column, found in columns.items()}, remark)
        for name in names
    ]


def _judge(probe: Wall, name: str, columns: dict[str, list[float]], remark: str) -> Finding:
    base, candidate = columns["base"], columns["candidate"]
    found = paired_ratio(base, candidate)
    noise = paired_ratio(base, columns["again"]) if "again" in columns else None
    allowed = max(probe.limit, max(noise.high, 1 / noise.low) - 1 if noise else 0.0)
    is_noisy = allowed > MOST_WIDENED * probe.limit
    is_worse = found.high > 1 + allowed and (found.high - 1) * mean(base) > probe.floor_s
    remarks = (
        f"{mean(base):.4g} s in base, {mean(candidate):.4g} s in candidate" if is_worse else "",
        f"base against base {noise.text}" if noise else "",
        f"too noisy to judge: above {MOST_WIDENED} times the limit" if is_noisy else "",
        remark,
    )
    return Finding(
        tier=3,
        name=f"{probe.name}: {name}" if probe.measure == "benchmarks" else probe.name,
        status="void" if is_noisy else "fail" if is_worse else "pass",
        found=found.text,
        limit=_limit(probe, allowed),
        why="; ".join(filter(None, remarks)),
        ratio=found.ratio,
        low=found.low,
        high=found.high,
        value=mean(candidate),
    )


def _sessions(samples: dict[str, list[Sample]]) -> str:
    """Trajectories paired one to one: what each took longer."""
    base, candidate = ([Run.load(where) for _, where in samples[column]] for column in ("base", "candidate"))
    found = compare(base, candidate)
    each = found.trajectory_jct_difference_s
    interval = f"[{each.low:+.3f}, {each.high:+.3f}]" if each.is_known else "(too few for an interval)"
    return f"each of {found.trajectories} sessions {each.value:+.3f} s {interval}, the machine's noise not counted"


def _limit(probe: Wall, allowed: float) -> str:
    widened = f", widened to {allowed:.2%}" if allowed > probe.limit else ""
    floor = f" and {probe.floor_s:g} s" if probe.floor_s else ""
    return f"+{probe.limit:.2%}{widened}{floor}"


def _times(measured: Measure, ran: Ran) -> Times:
    """Raises RunError where the command left no measurement."""
    if ran.problem:
        raise RunError(ran.problem)
    if measured == "benchmarks":
        return fastest_s(ran.out / BENCHMARKS)
    return {measured: ran.wall_s if measured == "wall_s" else jct_s(Run.load(ran.out))}
