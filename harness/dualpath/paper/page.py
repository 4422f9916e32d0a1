"""The page: a summary of how many numbers are met, a section per figure or table of the paper, where the runs are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from dualpath.paper.figures import FIGURES
from dualpath.paper.numbers import Number, absolute_errors, numbers_table, percentile
from dualpath.paper.part import Part
from dualpath.paper.runs import Results
from dualpath.report import style
from dualpath.report.sections import Section, Tile
from dualpath.report.table import NONE, Table, number, per_cent, table
from dualpath.report.tables import checks_table
from dualpath.report.write import write_page
from dualpath.results.checks import Check
from dualpath.results.run import Run

TITLE = "The DualPath paper, number by number"


class Written(NamedTuple):
    """A page, the checks over several numbers (what the suite sets out to reach), and those of every single number."""

    page: Path
    goals: list[Check]
    singles: list[Check]


def write_paper(results: Results, out_dir: Path, names: Iterable[str] = FIGURES) -> Written:
    """Write the report on these figures. Raises RunError where it cannot be written,
    or where the paper's own numbers cannot be read. A run that is missing fails its checks, no more."""
    style.apply()
    names = tuple(names)
    parts = [FIGURES[name].report(results) for name in names]
    sections = [_section(part, is_simulated=bool(FIGURES[name].cells)) for name, part in zip(names, parts, strict=True)]
    checks = [check for part in parts for check in part.all_checks]
    used = [found for found in results.used.values() if isinstance(found, Run)]
    page = write_page(
        out_dir,
        title=TITLE,
        tiles=_tiles(parts),
        caveats=_caveats(results),
        sections=[_summary(parts), *sections, _runs(results)],
        counts=(len(used), 0),
        checks=checks,
    )
    goals = [check for part in parts for check in part.checks]
    return Written(page, goals, [number.as_check() for number in _numbers(parts)])


def _tiles(parts: Sequence[Part]) -> list[Tile]:
    numbers = _numbers(parts)
    predicted = absolute_errors(number for number in numbers if number.is_prediction)
    met = sum(number.verdict == "met" for number in numbers)
    over = [check for part in parts for check in part.checks]
    words = _beside(numbers)
    return [
        Tile("numbers met", f"{met} / {len(numbers)}", "each within its tolerance", words),
        Tile("median error", per_cent(percentile(predicted, 0.5)), f"over {len(predicted)} predictions", words),
        Tile("90th percentile", per_cent(percentile(predicted, 0.9)), "of the same errors", words),
        Tile("checks over several", f"{sum(check.passed for check in over)} / {len(over)}", "passed", words),
    ]


def _beside(numbers: Sequence[Number]) -> tuple[str, ...]:
    """A few words that stand beside what simulations gave."""
    missing = sum(number.ours is None for number in numbers)
    return ("ours simulated", *([f"{missing} of {len(numbers)} not run"] if missing else []))


def _numbers(parts: Iterable[Part]) -> list[Number]:
    return [number for part in parts for number in part.numbers]


def _caveats(results: Results) -> list[str]:
    found = ["Everything here is simulated: the scheduler is the engine's own, the machine is a model of the paper's."]
    missing = sum(isinstance(run, str) for run in results.used.values())
    if missing:
        found.append(f"{missing} of {len(results.used)} runs are missing; their numbers count as not met.")
    old = sum(isinstance(run, Run) and not results.is_current(cell) for cell, run in results.used.items())
    if old:
        found.append(f"{old} of {len(results.used)} runs were made with other sources or constants than today's.")
    return found


def _summary(parts: Sequence[Part]) -> Section:
    rows = [_summary_row(part.title, list(part.numbers), list(part.checks)) for part in parts]
    rows.append(_summary_row("all", _numbers(parts), [check for part in parts for check in part.checks]))
    columns = (
        "part|",
        "numbers",
        "met",
        "missed",
        "not run",
        "predictions",
        "median error",
        "90 %",
        "median error of fits",
        "checks over several",
    )
    note = (
        "Predictions: numbers that no constant was chosen on; errors are |ours / theirs - 1|. Shares are judged by "
        "their difference and are in no error statistic. Some runs are shown in several figures, because the paper "
        "shows them in several; each showing counts."
    )
    checks = [check for part in parts for check in part.checks]
    tables: list[Table] = [table("By figure and table", columns, rows, note)]
    if checks:
        tables.append(checks_table("Checks over several numbers", checks))
    missed = [number for number in _numbers(parts) if number.verdict == "missed"]
    if missed:
        tables.append(numbers_table("Every number missed", missed))
    text = (
        "Ours is what the simulator gives, theirs what the paper prints or what was read off its figures (reports/"
        "paper/ORIGIN.md). Which numbers the constants were chosen on is declared in paper/fit.py; all others are "
        "predictions. Numbers missed stay in, with what we believe the cause to be."
    )
    return Section("summary", "Summary", text, (), tuple(tables), caveats=_beside(_numbers(parts)))


def _summary_row(title: str, numbers: list[Number], checks: list[Check]) -> tuple[str | int, ...]:
    predicted = absolute_errors(number for number in numbers if number.is_prediction)
    fitted = absolute_errors(number for number in numbers if number.is_fit and number.scale == "relative")
    verdicts = [number.verdict for number in numbers]
    passed = f"{sum(check.passed for check in checks)} of {len(checks)}" if checks else NONE
    return (
        title.partition(":")[0],
        len(numbers),
        verdicts.count("met"),
        verdicts.count("missed"),
        verdicts.count("not run"),
        len(predicted),
        per_cent(percentile(predicted, 0.5)),
        per_cent(percentile(predicted, 0.9)),
        per_cent(percentile(fitted, 0.5)),
        passed,
    )


def _section(part: Part, *, is_simulated: bool) -> Section:
    tables = list(part.tables)
    if part.checks:
        tables.insert(0, checks_table("Checks", part.checks))
    if part.numbers:
        tables.append(numbers_table("Every number", part.numbers))
    return Section(
        part.id,
        part.title,
        part.text,
        part.figures,
        tuple(tables),
        caveats=_beside(part.numbers) if is_simulated else (),
    )


def _runs(results: Results) -> Section:
    rows = []
    for cell, run in sorted(results.used.items(), key=lambda pair: pair[0].name):
        if isinstance(run, str):
            rows.append((cell.name, run, NONE, NONE, NONE))
            continue
        raw = run.raw
        rows.append(
            (
                cell.name,
                "ok",
                str(raw.get("code", NONE)),
                f"{(run.manifest.commit or '')[:10]}{' +' if run.manifest.dirty else ''}",
                number(run.manifest.wall_s),
            )
        )
    columns = ("run|", "status|", "sources|", "commit|", "wall, s")
    note = "Sources: a digest of the scheduler and the simulator. A + at a commit: with uncommitted changes."
    return Section("provenance", "Provenance", "", (), (table("Provenance", columns, rows, note),), is_folded=True)
