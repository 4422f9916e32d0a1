"""The page opens whatever is missing, and judges what is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dualpath.core.errors import RunError
from dualpath.paper import fig8, fig13
from dualpath.paper.cells import Cell
from dualpath.paper.figures import FIGURES
from dualpath.paper.page import write_paper
from dualpath.paper.runs import Results
from dualpath.report import style
from dualpath.results.checks import RUN_MISSING
from synthetic import S, link, turn, write_run

ROOT = Path(__file__).resolve().parents[2]


def write_cell(out: Path, cell: Cell, jct_s: float) -> None:
    links = [link(k * 100_000_000, 1000 * (1 + node), node=node) for k in range(20) for node in range(3)]
    write_run(out / cell.name, [turn("a", 0, 0, int(jct_s * S))], links, arm=cell.arm, prefill=(1, 8), decode=(2, 8))


def test_without_a_run_every_check_of_one_fails_and_the_page_opens(tmp_path: Path) -> None:
    page, goals, singles = write_paper(Results(ROOT, tmp_path / "runs"), tmp_path / "out")
    checks = goals + singles
    of_runs = [check for check in checks if not check.id.startswith(("paper.table1.", "paper.table2."))]
    closed = {"paper.range42.formulas"}
    assert len(checks) == len({check.id for check in checks}) > 400
    assert [check.id for check in of_runs if check.passed] == [*closed]
    assert all(RUN_MISSING in check.note for check in of_runs if check.id not in closed)
    assert all(check.passed for check in checks if check not in of_runs)
    text = page.read_text()
    assert all(f'id="{name}"' in text for name in FIGURES)
    assert len(json.loads((tmp_path / "out" / "checks.json").read_text())) == len(checks)
    assert "runs are missing" in text
    assert "Every number: show all 98 rows" in text  # of Fig 10, folded
    assert "98 of 98 not run" in text[text.index('id="fig10"') :]
    of_table1 = text[text.index('id="table1"') :]
    assert "ours simulated" not in of_table1[: of_table1.index("</section>")]  # a closed form


def test_what_is_there_is_judged(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for cell in fig8.CELLS:
        write_cell(runs, cell, 1000.0)
    write_cell(runs, Cell("ds27b-1p1d", "32k", "basic", 4096), 1000.0)  # of another figure: not looked at
    page, goals, singles = write_paper(Results(ROOT, runs), tmp_path / "out", ["fig8"])
    found = {check.id: check for check in goals + singles}
    assert all(found[f"paper.fig8.tie.{snics}-snic"].passed for snics in (1, 2, 3))
    one = found["paper.fig8.ds27b-1p2d.32k.1024-agents.basic"]
    assert (one.passed, one.value) == (True, 0.0)  # theirs is 1,000 s
    assert not found["paper.fig8.ds27b-1p2d.64k.2048-agents.basic"].passed
    assert one.rows == (str(runs / "ds27b-1p2d/32k/1024-agents/basic"),)
    assert "made with other sources or constants" in page.read_text()


def test_a_void_run_is_as_a_missing_one_but_says_why(tmp_path: Path) -> None:
    cell = fig13.CELLS[0]
    write_run(tmp_path / cell.name, [turn("a", 0, 0, S)], status="void", reasons=["interrupted (Ctrl-C)"])
    results = Results(ROOT, tmp_path)
    assert results.run(cell) is None
    assert results.why_not(cell) == f"{cell.name} is void: interrupted (Ctrl-C)"
    style.apply()
    part = fig13.report(results)
    assert [number.verdict for number in part.numbers] == ["not run", "not run"]


def test_a_run_that_cannot_be_read_is_as_a_missing_one(tmp_path: Path) -> None:
    cell = fig13.CELLS[0]
    (tmp_path / cell.name).mkdir(parents=True)
    (tmp_path / cell.name / "run.json").write_text("{")
    assert "not JSON" in Results(ROOT, tmp_path).why_not(cell)


def test_without_the_papers_numbers_there_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="fig8_pd_ratio_jct"):
        fig8.report(Results(tmp_path, tmp_path))
