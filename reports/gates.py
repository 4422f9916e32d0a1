"""Does the gate work: planted slowdowns that it caught, and changes of nothing that it let pass.

    python reports/gates.py [ROWS [OUT]]    default: reports/published/gates/gates.jsonl reports/out/gates

ROWS is what bench/gate_proof.py wrote. The rows of the default were measured on another machine and are published with
the suite. Exits with 1 where a check failed.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from dualpath.core.errors import DualpathError, RunError
from dualpath.report import style
from dualpath.report.figure import Figure, finish
from dualpath.report.near import near
from dualpath.report.sections import Section, Tile
from dualpath.report.table import NONE, Shown, Table, shown, table
from dualpath.report.write import write_page
from dualpath.results.checks import Check, at_least, at_most

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "reports" / "published" / "gates" / "gates.jsonl"
UNCHANGED = "A against A"
PLANTED = (  # MUTANTS of bench/gate_proof.py
    "a sleep of 3 % in the read path",
    "one extra block read per request",
    "an extra copy per Layer Block",
    "a scheduler that is 30 % slower",
    "a path policy that ignores the queue",
)
LEAST_CAUGHT, OF_TRIES = 19, 20
MOST_ALARMS, OF_GATES = 2, 40
WALL = 3  # the tier of wall time
COLOURS = {"pass": style.ARM_COLOURS["dualpath"], "fail": style.ARM_COLOURS["layerwise"], "void": style.SOFT_INK}

Row = dict[str, Any]


def main(rows_file: Path = PUBLISHED, out_dir: Path = ROOT / "reports" / "out" / "gates") -> list[Check]:
    """Read the rows, compute the checks, write the report, print them. Returns the checks."""
    style.apply()
    rows = load(rows_file)
    planted, unchanged = [row for row in rows if is_planted(row)], [row for row in rows if not is_planted(row)]
    power = power_checks(rows, rows_file)
    checks = [*power, alarm_check(rows, rows_file)]
    is_published = rows_file == PUBLISHED
    page = write_page(
        out_dir,
        title="Gates: what they catch, and what they let pass" + " (published, measured elsewhere)" * is_published,
        tiles=[
            Tile(
                "slowdowns caught",
                f"{sum(check.passed for check in power)} / {len(PLANTED)}",
                f"in at least {LEAST_CAUGHT} of {OF_TRIES} tries each",
                words(planted),
            ),
            Tile(
                "false alarms",
                f"{sum(map(is_alarm, unchanged))} / {len(unchanged)}",
                UNCHANGED,
                words(unchanged),
            ),
        ],
        caveats=caveats(rows, is_published=is_published),
        sections=[
            *(Section("time", "Wall time, gate by gate", TIME, (figure,), ()) for figure in time_figures(rows)),
            Section("power", "Power", POWER, (), (power_table(planted),), caveats=words(planted)),
            Section("alarms", "False alarms", ALARMS, (), (alarm_table(unchanged),), caveats=words(unchanged)),
        ],
        counts=(len(rows), sum(row["status"] == "void" for row in rows)),
        checks=checks,
        computed_from=f"the raw rows in {near(rows_file)}",
    )
    for each in checks:
        value = "–" if each.value is None else f"{each.value:g}"
        print(f"{'pass' if each.passed else 'FAIL'} {each.id}: {value} (bound {each.bound}) {each.note}")
    print(f"{sum(each.passed for each in checks)} of {len(checks)} checks passed; report: {near(page)}")
    return checks


POWER = (
    "Each slowdown is planted in a copy of the same commit and goes through the tier that was named for it beforehand "
    "(bench/gate_proof.py). Caught: the gate fails, with a finding of that tier. What counters and instructions say "
    "hardly changes from try to try, nor with what else the machine does; what wall time says does. A slower scheduler "
    "is named after its time; of its instructions the share is another."
)
TIME = (
    "Tier 3 is the one that a noisy machine can mislead: what it said of a 3 % sleep in the read path, and of nothing "
    "changed beside a neighbour that keeps one of two cores busy."
)
ALARMS = (
    "The commit against itself, all tiers, while a neighbour keeps one core busy. An alarm is a gate that fails. A "
    "gate that is void has not judged, and is no alarm; it has let nothing pass either."
)


def load(path: Path) -> list[Row]:
    """Raises RunError that names the line."""
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}; run bench/gate_proof.py") from None
    try:
        rows = [json.loads(line) for line in lines]
    except ValueError as error:
        raise RunError(f"{path}: not JSON lines ({error})") from None
    if len(commits := {row["commit"] for row in rows}) > 1:
        raise RunError(f"{path}: gates of {len(commits)} commits ({', '.join(sorted(commits))}); keep one of them")
    return rows


def words(rows: list[Row]) -> tuple[str, ...]:
    """Beside the counts."""
    num_void = sum(row["status"] == "void" for row in rows)
    return (f"{num_void} of {len(rows)} gates void, which judged nothing",) if num_void else ()


def is_planted(row: Row) -> bool:
    return bool(row["mutant"] != UNCHANGED)


def is_caught(row: Row) -> bool:
    """By the tier that was to."""
    failed = {finding["tier"] for finding in row["findings"] if finding["status"] == "fail"}
    return is_planted(row) and bool(failed & set(row["tiers"]))


def is_alarm(row: Row) -> bool:
    return not is_planted(row) and bool(row["status"] == "fail")


def power_checks(rows: list[Row], path: Path) -> list[Check]:
    """A void gate has not caught anything."""
    found, tries = [], by_mutant(rows)
    for mutant in PLANTED:
        of = tries.get(mutant, [])
        caught = sum(map(is_caught, of))
        note = f"{caught} of {len(of)} tries"
        what = f"share of tries in which the gate caught {mutant}"
        value, limit = caught / len(of) if len(of) >= OF_TRIES else None, LEAST_CAUGHT / OF_TRIES
        short = mutant.replace("%", "percent").replace(" ", "-")
        found.append(at_least(f"gates.power.{short}", what, value, limit, note=note, rows=(str(near(path)),)))
    return found


def alarm_check(rows: list[Row], path: Path) -> Check:
    """A void gate has let nothing pass, and does not count."""
    of = [row for row in rows if not is_planted(row) and row["status"] != "void"]
    alarms = sum(map(is_alarm, of))
    what = f"false alarms among {OF_GATES} gates of nothing changed that judged"
    value, note = alarms * OF_GATES / len(of) if len(of) >= OF_GATES else None, f"{alarms} of {len(of)} gates"
    return at_most("gates.alarms", what, value, MOST_ALARMS, unit="gates", note=note, rows=(str(near(path)),))


def by_mutant(rows: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in filter(is_planted, rows):
        found.setdefault(row["mutant"], []).append(row)
    return found


def power_table(rows: list[Row]) -> Table:
    cells = []
    for mutant, of in by_mutant(rows).items():
        ratios = [each["ratio"] for row in of for each in row["findings"] if each["status"] == "fail" and each["ratio"]]
        change = f"{min(ratios) - 1:+.1%} to {max(ratios) - 1:+.1%}" if ratios else "counters differ"
        void = sum(row["status"] == "void" for row in of)
        seconds = sum(row["seconds"] for row in of) / len(of)
        caught = f"{sum(map(is_caught, of))} / {len(of)}"
        cells.append((mutant, str(of[0]["tiers"][0]), caught, void, change, shown(seconds, ".0f")))
    columns = ("planted|", "tier", "caught", "void", "candidate over base", "s per gate")
    return table("Planted slowdowns", columns, cells)


def time_figures(rows: list[Row]) -> list[Figure]:
    """What tier 3 found in each gate, by what was planted; none where no gate has an interval."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        timed = [each for each in row["findings"] if each["tier"] == WALL and each.get("high") is not None]
        if timed:
            found.setdefault(row["mutant"], []).extend(timed)
    if not found:
        return []
    drawing, panels = plt.subplots(1, len(found), figsize=(7.6, 3.0), sharey=True, squeeze=False)
    for axes, (mutant, of) in zip(panels[0], found.items(), strict=True):
        for place, each in enumerate(sorted(of, key=lambda each: each["high"])):
            low, ratio, high = (100 * (each[name] - 1) for name in ("low", "ratio", "high"))
            colour = COLOURS[each["status"]]
            axes.plot([place, place], [low, high], color=colour, linewidth=1.6, solid_capstyle="round")
            axes.plot(place, ratio, "o", color=colour, markersize=3)
        limits = {float(each["limit"].removeprefix("+").partition("%")[0]) for each in of}
        for limit in limits:
            axes.axhline(limit, color=style.INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_title("nothing changed" if mutant == UNCHANGED else mutant)
        axes.set_xticks([])
        axes.set_xlabel(f"{len(of)} gates, by upper bound")
        style.rules(axes, "y")
    panels[0][0].set_ylabel("candidate over base, %")
    drawing.tight_layout()
    caption = (
        "Each mark is one gate: the mean ratio of paired wall times, and a bound on either side that holds with 95 % "
        "each. Orange: it failed, as the upper bound is above the dashed limit. Blue: it passed. Grey: it was void."
    )
    return [finish(drawing, "gates-time", "What tier 3 said, gate by gate", caption)]


def alarm_table(rows: list[Row]) -> Table:
    cells = []
    for name in dict.fromkeys(each["name"] for row in rows for each in row["findings"]):
        found = [each for row in rows for each in row["findings"] if each["name"] == name]
        statuses = Counter(each["status"] for each in found)
        ratios = [each["ratio"] for each in found if each["ratio"]]
        low, high = min(ratios, default=1.0) - 1, max(ratios, default=1.0) - 1
        change = Shown.of(f"{low:+.2%} to {high:+.2%}", low=low, high=high) if ratios else NONE
        cells.append((str(found[0]["tier"]), name, *(statuses[each] for each in ("pass", "fail", "void")), change))
    columns = ("tier", "what|", "pass", "fail", "void", "candidate over base")
    return table(f"{len(rows)} gates of nothing changed", columns, cells)


def caveats(rows: list[Row], *, is_published: bool) -> list[str]:
    machines = {f"{row['host']['cores']} cores of {row['host']['cpu']}" for row in rows}
    commits = {row["commit"] for row in rows}
    found = [f"Measured on {' and '.join(sorted(machines)) or 'nothing'}, commit {', '.join(sorted(commits)) or '–'}."]
    if is_published:
        found.insert(0, "Published, measured elsewhere: nothing here was measured on the machine that wrote this page.")
        found.append("Other programs worked on that machine during some gates: reports/published/gates/ORIGIN.md.")
    return found


if __name__ == "__main__":
    try:
        made = main(*(Path(argument).resolve() for argument in sys.argv[1:3]))
    except DualpathError as error:
        sys.exit(f"error: {error}")
    sys.exit(0 if all(check.passed for check in made) else 1)
