"""Writes a report: index.html, report.md, checks.json, figures/*.png and, of every table, tables/*.csv and *.parquet.

The folder is all there is: the page asks nothing of a network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

import jinja2

from dualpath.core.errors import RunError
from dualpath.report import download, style
from dualpath.report.caveats import caveats
from dualpath.report.cells import gather
from dualpath.report.sections import Section, Tile, headline, sections
from dualpath.results.checks import Check, write_checks
from dualpath.results.run import Run, load_runs


def write_report(
    run_dirs: Iterable[str | Path], out_dir: str | Path, *, title: str, checks: Sequence[Check] = ()
) -> Path:
    """Report on any set of run directories and return the page's path.

    Raises RunError for a directory that cannot be read, or where no directory is given. A void run is no error: it is
    listed with its reasons.
    """
    return write_report_of(load_runs(run_dirs), out_dir, title=title, checks=checks)


def write_report_of(
    runs: Sequence[Run],
    out_dir: str | Path,
    *,
    title: str,
    checks: Sequence[Check] = (),
    notes: Sequence[str] = (),
    beside: Sequence[str] = (),
) -> Path:
    """The same for runs already loaded. No run at all is allowed only with checks that say so. notes: what a reader
    must know of this experiment before any number; beside: of that, a few words each for beside every number."""
    if not runs and not checks:
        raise RunError("nothing to report on: no run directory was given")
    style.apply()
    evidence = gather(runs)
    return write_page(
        out_dir,
        title=title,
        tiles=headline(evidence, checks, beside),
        caveats=[*caveats(evidence), *notes],
        sections=sections(evidence, checks, beside),
        counts=(len(evidence.runs), len(evidence.void)),
        checks=checks,
    )


def write_page(
    out_dir: str | Path,
    *,
    title: str,
    tiles: Sequence[Tile],
    caveats: Sequence[str],
    sections: Sequence[Section],
    counts: tuple[int, int],
    checks: Sequence[Check],
    computed_from: str = "the raw rows of the run directories listed under Provenance",
) -> Path:
    """Write a report whose sections are made already. counts: runs it is of, and how many of them are void."""
    content: dict[str, object] = {
        "title": title,
        "tiles": tiles,
        "caveats": caveats,
        "sections": sections,
        "counts": counts,
        "computed_from": computed_from,
        "files": download.file_names(sections),
    }
    out_dir = Path(out_dir)
    figures = out_dir / "figures"
    try:
        for name in _files_of(out_dir / "report.md"):
            (out_dir / name).unlink(missing_ok=True)
        figures.mkdir(parents=True, exist_ok=True)
        for section in sections:
            for figure in section.figures:
                figure.save(figures)
        download.save(sections, out_dir / download.FOLDER)
        page = out_dir / "index.html"
        page.write_text(_render("page.html", content), encoding="utf-8")
        (out_dir / "report.md").write_text(_render("page.md", content), encoding="utf-8")
        write_checks(checks, out_dir / "checks.json")
    except OSError as error:
        raise RunError(f"{out_dir}: the report cannot be written ({error.strerror}); choose another folder") from error
    return page


def _files_of(earlier: Path) -> list[str]:
    """Files of a report made here before; others in its folders are somebody's."""
    text = earlier.read_text(encoding="utf-8", errors="replace") if earlier.is_file() else ""
    return re.findall(r"\((figures/[\w.-]+\.png|tables/[\w.-]+\.(?:csv|parquet))\)", text)


def _render(template: str, content: dict[str, object]) -> str:
    source = resources.files("dualpath.report").joinpath(template).read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=template.endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _markdown_cell
    return environment.from_string(source).render(content)


def _markdown_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
