"""A report of real (simulated) runs in a headless browser: no error, nothing broken, no wider than the screen.

Screenshots are kept in reports/out/screenshots, or in the folder that DUALPATH_SCREENSHOTS names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser, headless
from dualpath.plan import Plan
from dualpath.report.write import write_report
from dualpath.simulate import simulate
from synthetic import write_run

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = Path(os.environ.get("DUALPATH_SCREENSHOTS", ROOT / "reports" / "out" / "screenshots"))
SCREENS = {"desk": (1280, False), "phone": (360, False), "desk-dark": (1280, True), "phone-dark": (360, True)}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="neither chromium nor google-chrome is on the PATH")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with headless(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on three arms of two clusters, and on a void run."""
    root = tmp_path_factory.mktemp("report")
    runs = [write_run(root / "gone", [], status="void", reasons=["engine DE0 died"], arm="split")]
    for cluster in ("paper-ds27b-1p1d", "paper-ds27b-1p2d"):
        for arm in ("basic", "layerwise", "dualpath"):
            runs.append(root / f"{cluster}-{arm}")
            file = ROOT / "bench" / "clusters" / f"{cluster}.toml"
            plan = Plan(ROOT / "traces" / "agents-32k.parquet", file, arm, runs[-1], backend="sim", agents=24)
            assert simulate(plan, lambda done, total: None).status == "ok"
    return write_report(runs, root / "out", title="Three arms, simulated")


@pytest.mark.parametrize("screen", SCREENS)
def test_a_report_opens_without_errors_and_fits_the_screen(browser: Browser, page: Path, screen: str) -> None:
    width, is_dark = SCREENS[screen]
    screenshot = SCREENSHOTS / f"report-{screen}.png"
    seen = browser.look(page, screenshot, width=width, is_dark=is_dark)
    assert seen.problems == []
    assert screenshot.stat().st_size > 10_000
    assert (_lightness(seen.background) < _lightness(seen.ink)) == is_dark


def _lightness(colour: str) -> int:
    return sum(map(int, re.findall(r"\d+", colour)[:3]))


PLANTED = {
    "<script>undefined_function()</script>": "error: ReferenceError: undefined_function is not defined",
    "<script>console.error('lost')</script>": "console: lost",
    '<img src="figures/gone.png">': "broken image figures/gone.png",
    '<link rel="stylesheet" href="gone.css">': "not loaded: net::ERR_FILE_NOT_FOUND",
    '<a href="#nowhere">x</a>': "broken link #nowhere",
    '<a href="tables/gone.csv">x</a>': "tables/gone.csv",
    '<div class="planted" style="width: 500px">x</div>': "on a screen of 360 px: div.planted",
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_fault_is_seen(browser: Browser, page: Path, tmp_path: Path, planted: str) -> None:
    faulty = page.with_name("faulty.html")
    faulty.write_text(page.read_text(encoding="utf-8").replace("</main>", f"{planted}</main>"), encoding="utf-8")
    problems = browser.look(faulty, tmp_path / "faulty.png", width=360).problems
    assert any(PLANTED[planted] in problem for problem in problems), problems
