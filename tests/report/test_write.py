from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from dualpath.core.errors import RunError
from dualpath.report import style
from dualpath.report.caveats import beside
from dualpath.report.cells import Cell, gather
from dualpath.report.figures_speed import ties
from dualpath.report.figures_time import balance_over_time, with_gaps
from dualpath.report.write import write_report
from dualpath.results.checks import at_least, at_most
from dualpath.results.links import balance
from dualpath.results.run import Run
from polars.testing import assert_frame_equal
from synthetic import MS, S, link, turn, write_run


class _Page(HTMLParser):
    """Collects ids, the targets of links and sources, and whether every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)
        self._collect(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._collect(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def _collect(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "data", "action", "poster"):
                self.targets.append(value or "")


def _parse(page: Path) -> tuple[str, _Page]:
    text = page.read_text(encoding="utf-8")
    found = _Page()
    found.feed(text)
    return text, found


def _arm(directory: Path, arm: str, end_s: float, **manifest: Any) -> Path:
    """Ten agents of two turns on 1P1D; dual-path arms read with both storage NICs."""
    rows = []
    for index in range(10):
        middle = int((0.1 + index / 100) * S)
        rows += [turn(f"t{index}", 0, 0, middle), turn(f"t{index}", 1, middle, int(end_s * S * (10 + index) / 19))]
    sides = (0,) if arm == "layerwise" else (0, 1)
    links = [
        link(step * 100 * MS, 90_000, node=node, route="decode" if node else "prefill")
        for step in range(int(end_s * 10))
        for node in sides
    ]
    links.append(link(0, 5, resource="cnic", node=1, engine=1, direction="write", route="miss"))
    return write_run(directory, rows, links, arm=arm, **manifest)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with two repeated arms, a void run, a null run and checks; returns its folder."""
    root = tmp_path_factory.mktemp("full")
    runs = [
        _arm(root / f"{arm}-{repeat}", arm, end_s + repeat / 50, repeat=repeat)
        for arm, end_s in (("layerwise", 8.0), ("dualpath", 4.0))
        for repeat in range(2)
    ]
    runs.append(write_run(root / "gone", [], status="void", reasons=["engine <DE0> died"], arm="split"))
    runs.append(write_run(root / "null", [turn("a", 0, 0, S)], backend="null", arm="dualpath"))
    checks = [at_least("a.good", "fast enough", 1.9, 1.8, rows=["r"]), at_most("a.bad", "noise", None, 0.03, note="x")]
    write_report(runs, root / "out", title="A & B", checks=checks)
    return root / "out"


def test_the_page_stands_alone(full: Path) -> None:
    text, page = _parse(full / "index.html")
    assert page.open == []
    elsewhere = [target for target in page.targets if not target.startswith(("#", "data:"))]
    assert elsewhere
    assert all((full / target).is_file() and target.startswith(("tables/", "figures/")) for target in elsewhere)
    assert {target[1:] for target in page.targets if target.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert "<script" not in text


def test_the_page_says_what_it_must(full: Path) -> None:
    text, _ = _parse(full / "index.html")
    for words in (
        "A &amp; B",
        "2.00×",  # speed-up of dualpath over layerwise
        "✓ pass",
        "✗ fail",
        "engine &lt;DE0&gt; died",
        "a local directory",  # what stands in
        "abababababab",  # trace sha256
        "0123456789",  # commit
        "ext4",
        "null engine",
    ):
        assert words in text, words
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text


def test_figures_follow_the_colour_scheme_of_the_page(full: Path) -> None:
    text, _ = _parse(full / "index.html")
    svg = text[text.index("<svg") :]
    assert "var(--ink)" in svg
    assert not re.search(r"#1c2530|#697586|#dfe4ea|#000000", svg, re.IGNORECASE)


def test_every_figure_of_a_full_report_is_drawn_once(full: Path) -> None:
    names = {path.stem for path in (full / "figures").glob("*.png")}
    assert names == {
        "ties",
        "speed-up-layerwise",
        "utilisation-snic-cpu-1p1d",
        "utilisation-cnic-cpu-1p1d",
        "balance",
        "ttft",
        "completion",
        "noise",
    }


def test_void_runs_are_listed_and_never_drawn(full: Path) -> None:
    markdown = (full / "report.md").read_text(encoding="utf-8")
    assert "| cpu-1p1d | split | 0 | engine <DE0> died |" in markdown
    drawn = markdown[markdown.index("### Time and speed-up") : markdown.index("## What the links did")]
    assert "split" not in drawn


def test_markdown_names_the_figures_that_exist(full: Path) -> None:
    markdown = (full / "report.md").read_text(encoding="utf-8")
    files = re.findall(r"!\[[^]]*\]\(([^)]+)\)", markdown)
    assert len(files) == 8
    assert all((full / name).stat().st_size > 1000 for name in files)


def test_markdown_tables_have_as_many_cells_as_headings(full: Path) -> None:
    widths: list[int] = []
    for line in (full / "report.md").read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            assert len(set(widths)) <= 1
            widths = []
            continue
        widths.append(len(re.split(r"(?<!\\)\|", line)))


def test_checks_json_is_written_beside_the_page(full: Path) -> None:
    found = json.loads((full / "checks.json").read_text())
    assert [(row["id"], row["pass"]) for row in found] == [("a.good", True), ("a.bad", False)]


def test_one_run_is_enough(tmp_path: Path) -> None:
    page = write_report([_arm(tmp_path / "r", "dualpath", 2.0)], tmp_path / "out", title="One")
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert page == tmp_path / "out" / "index.html"
    assert "the noise floor of these numbers is not known" in markdown
    assert not (tmp_path / "out" / "figures" / "noise.png").exists()
    assert not (tmp_path / "out" / "figures" / "speed-up-layerwise.png").exists()


def test_only_void_runs_make_a_report_without_figures(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", [{**turn("a", 0, 0, S), "status": "unfinished", "end_ns": None}])
    write_report([run], tmp_path / "out", title="Void")
    assert list((tmp_path / "out" / "figures").iterdir()) == []
    assert "1 of 1 turns did not finish" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_turns_of_one_token_have_no_second_token(tmp_path: Path) -> None:
    rows = [turn("a", 0, 0, S, generate_tokens=1), turn("a", 1, S, 2 * S, generate_tokens=1)]
    write_report([write_run(tmp_path / "r", rows, [link(0, 1000)])], tmp_path / "out", title="Short")
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "| TTST | – | – | – | – | 0 (0) | 0 |" in markdown
    assert "| 750 [–] | 750 [–] | 750 [–] | 750 [–] | 2 (1) | 0 |" in markdown


def test_a_void_run_shows_its_latencies_with_failures_as_infinite_apart_from_results(tmp_path: Path) -> None:
    ended = [turn(f"t{k}", 0, 0, S) for k in range(3)]
    cut = {**turn("t3", 0, 0, S), "status": "unfinished", "end_ns": None}
    void = write_run(
        tmp_path / "void", [*ended, cut], arm="split", status="void", reasons=["DE0 died"], turns_planned=5
    )
    write_report([_arm(tmp_path / "r", "dualpath", 2.0), void], tmp_path / "out", title="Void")
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "| cpu-1p1d | split | TTFT | ∞ [" in markdown[markdown.index("### Latency in void runs") :]
    assert "| 5 (" in markdown
    assert "split" not in markdown[: markdown.index("## Void runs")]
    assert "- **1** void run (" in markdown


def test_a_harness_that_was_late_is_said_where_its_latencies_are(tmp_path: Path) -> None:
    late = _arm(tmp_path / "late", "layerwise", 4.0)  # turns that are sent after a sixteenth of their time
    write_report([late], tmp_path / "out", title="Late")
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "> 1 of 1 runs is DEGRADED at p50 and p99: there" in markdown
    assert "| cpu-1p1d | layerwise | TTFT DEGRADED at p50 and p99 |" in markdown
    assert "| cpu-1p1d | layerwise | TPOT |" in markdown  # when tokens follow the first, sending is long done
    rows = [turn(f"t{k}", 0, 0, (4 + k) * S, released_ns=0) for k in range(4)]
    write_report([write_run(tmp_path / "r", rows)], tmp_path / "out", title="In time")
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "DEGRADED at" not in markdown
    assert "| in time |" in markdown


def test_how_many_runs_were_degraded_is_said_by_percentile(tmp_path: Path) -> None:
    late = _arm(tmp_path / "late", "layerwise", 4.0)
    rows = [turn(f"t{k}", 0, 0, 4 * S, released_ns=S if k == 3 else 0) for k in range(4)]
    write_report([late, write_run(tmp_path / "r", rows, arm="split")], tmp_path / "out", title="Late")
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "> 2 of 2 runs are DEGRADED (1 at p50 and p99, 1 at p99): there" in markdown


def test_an_oracle_that_was_slower_than_an_arm_is_said_beside_the_number(tmp_path: Path) -> None:
    times = {"basic": 4.0, "split": 3.5, "dualpath": 2.5, "oracle": 3.0}
    runs = [_arm(tmp_path / arm, arm, end_s) for arm, end_s in times.items()]
    write_report(runs, tmp_path / "out", title="Tiny")
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "| 150.0% (noise: the oracle was slower) |" in markdown
    assert "| 50.0% |" in markdown
    assert "cannot be reached" not in markdown


def test_what_is_not_shown_is_not_explained(full: Path, tmp_path: Path) -> None:
    """Of one cluster, whose arms read with different numbers of NICs, no two arms should tie."""
    whole = (full / "report.md").read_text(encoding="utf-8")
    assert "its row is the harness alone" in whole
    runs = [_arm(tmp_path / arm, arm, 2.0) for arm in ("layerwise", "dualpath")]
    write_report(runs, tmp_path / "out", title="Small")
    assert "null engine" not in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    no_band = ties(gather(map(Run.load, runs)))
    other = _arm(tmp_path / "other", "layerwise", 2.0, cluster_keys={"name": "cpu-2p1d"}, prefill=(2, 1))
    band = ties(gather(map(Run.load, [*runs, other])))
    for figure, has_band in ((no_band, False), (band, True)):
        assert figure is not None
        assert ("grey band" in figure.caption, "of each other" in figure.svg) == (has_band, has_band)


def test_the_rule_of_the_steady_window_and_the_warm_up_are_said(tmp_path: Path) -> None:
    write_report([_arm(tmp_path / "r", "layerwise", 2.0, warm_up="nothing")], tmp_path / "out", title="One")
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "| cpu-1p1d | layerwise | cold-start-to-half | 0.19 | 1.58 | 5 or more of 10 agents loop |" in markdown
    assert "| engine | nothing | 1 |" in markdown


def test_differences_are_from_layerwise_or_else_from_the_first_arm(tmp_path: Path) -> None:
    runs = {
        arm: _arm(tmp_path / arm, arm, end_s) for arm, end_s in (("basic", 4.0), ("layerwise", 3.0), ("split", 2.0))
    }
    write_report(runs.values(), tmp_path / "out", title="Three")
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "| cpu-1p1d | basic | layerwise | 0.763 [0." in markdown  # a second less on the slowest, 10/19 on the first
    assert "| cpu-1p1d | split | layerwise | -0.763 [-0." in markdown
    write_report([runs["basic"], runs["split"]], tmp_path / "out", title="Two")
    assert "| cpu-1p1d | split | basic | -1.53 [" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_native_links_are_shown_in_bytes_and_have_no_bound(tmp_path: Path) -> None:
    native = {"snic_bytes_per_s": None, "cnic_bytes_per_s": None}
    write_report([_arm(tmp_path / "r", "dualpath", 2.0, cluster_keys=native)], tmp_path / "out", title="Native")
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "no rate, hence no utilisation" in markdown
    assert "| cpu-1p1d | dualpath | 1 | 2.00 | – | – | – | – | – | – |" in markdown


def test_many_nics_become_a_heat_map(tmp_path: Path) -> None:
    links = [link(step * 100 * MS, 50_000, node=node) for step in range(5) for node in range(10)]
    run = write_run(tmp_path / "r", [turn("a", 0, 0, S)], links, prefill=(5, 1), decode=(5, 1), arm="dualpath")
    write_report([run], tmp_path / "out", title="Wide")
    _, page = _parse(tmp_path / "out" / "index.html")
    assert any(target.startswith("data:image/png") for target in page.targets)


def test_different_workloads_are_told_apart_and_never_compared(tmp_path: Path) -> None:
    small = _arm(tmp_path / "a", "layerwise", 4.0)
    other = _arm(tmp_path / "b", "dualpath", 2.0, trace={"scale": 0.5})
    write_report([small, other], tmp_path / "out", title="Two")
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "| cpu-1p1d · scale 0.5 | dualpath | 1 | 2.00 | – |" in markdown
    assert "| cpu-1p1d · scale 1.0 | layerwise | 1 | 4.00 | – |" in markdown


def test_workloads_are_told_apart_by_rate_and_one_without_a_rate_says_no_number(tmp_path: Path) -> None:
    feeds: list[dict[str, Any]] = [
        {"mode": "offline", "rate_per_s": None},
        {"mode": "online", "rate_per_s": 0.2},
        {"mode": "online", "rate_per_s": 2.0},
        {"mode": "recorded", "gap_scale": None},
    ]
    runs = [_arm(tmp_path / f"r{index}", "layerwise", 4.0, feed=feed) for index, feed in enumerate(feeds)]
    write_report(runs, tmp_path / "out", title="Rates")
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    for group in (
        "offline · gaps x 0",
        "online · 0.2 agents/s · gaps x 0",
        "online · 2 agents/s · gaps x 0",
        "recorded",
    ):
        assert f"| cpu-1p1d · {group} | layerwise | 1 | 4.00 |" in markdown
    assert "None" not in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_workloads_that_differ_in_one_thing_never_share_a_name(tmp_path: Path) -> None:
    differing: list[dict[str, Any]] = [
        {},
        {"feed": {"gap_s": 1.5}},
        {"trace": {"max_len": 4096}},
        {"seed": None},
        {"selection": {"append_factor": "1/2"}},
        {"selection": {"generate_factor": 0.02}},
        # the same work, and yet no repeats of each other
        {"transport": {"type": "nixl"}},
        {"verify": True},
        {"constants": [["pass_ms", 1.5]]},
        {"factors": [["pass_ms", 1.5]]},
        {"cluster_keys": {"snic_bytes_per_s": None}},
        {"cluster_keys": {"cnic_bytes_per_s": 1e6}},
    ]
    runs = [_arm(tmp_path / f"r{index}", "layerwise", 4.0, **more) for index, more in enumerate(differing)]
    for other in runs[1:]:
        assert len(gather(map(Run.load, (runs[0], other))).groups) == 2


def test_what_weakens_the_numbers_is_said_first(tmp_path: Path) -> None:
    a = _arm(tmp_path / "a", "layerwise", 4.0, host={"name": "one"}, storage={"direct_io": False})
    b = _arm(tmp_path / "b", "dualpath", 2.0, host={"name": "two"}, commit="ffff", dirty=True)
    write_report([a, b], tmp_path / "out", title="Weak")
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    first = markdown[: markdown.index("## How much faster")]
    for words in ("from 2 hosts", "from 2 commits", "1 of 2 runs were made with", "1 of 2 runs read storage"):
        assert words in first


def test_files_of_an_earlier_report_do_not_linger(tmp_path: Path) -> None:
    runs = [_arm(tmp_path / f"r{k}", "dualpath", 2.0, repeat=k) for k in range(2)]
    write_report(runs, tmp_path / "out", title="Two")
    of_two = [tmp_path / "out" / name for name in ("figures/noise.png", "tables/noise-a-against-a.csv")]
    assert all(path.exists() for path in of_two)
    (tmp_path / "out" / "tables" / "mine.csv").write_text("a\n1\n")
    write_report(runs[:1], tmp_path / "out", title="One")
    assert not any(path.exists() for path in of_two)
    assert (tmp_path / "out" / "tables" / "mine.csv").exists()


def test_every_table_can_be_had_as_csv_and_parquet_with_the_same_numbers(full: Path) -> None:
    markdown = (full / "report.md").read_text(encoding="utf-8")
    files = {path.stem for path in (full / "tables").iterdir()}
    assert len(files) == len(list((full / "tables").glob("*.csv"))) == len(list((full / "tables").glob("*.parquet")))
    assert len(files) == markdown.count("[CSV]") == markdown.count("[Parquet]")
    speed = pl.read_parquet(full / "tables" / "speed-time-and-speed-up.parquet")
    assert speed["JCT, s"].to_list() == pytest.approx([8.01, 4.01])
    assert speed["vs layerwise (range)"].to_list() == [None, pytest.approx(8.01 / 4.01)]
    assert speed["least SNIC use, fraction"].dtype == pl.Float64
    csv = pl.read_csv(full / "tables" / "speed-time-and-speed-up.csv", schema=speed.schema)
    assert_frame_equal(speed, csv)


def test_caveats_stand_beside_the_numbers(full: Path) -> None:
    text = (full / "index.html").read_text(encoding="utf-8")
    tile = text[text.index('<div class="tile">') :]
    tile = tile[: tile.index("</div>")]
    assert "2.00×" in tile
    for words in ("A against A: up to 0.5%", "1 void run left out"):
        assert words in tile
        assert words in text[text.index('id="speed"') : text.index('id="utilisation"')]
        assert words not in text[text.index('id="metrics"') :]


def test_one_run_says_that_its_noise_is_unknown(tmp_path: Path) -> None:
    for name, more, words in (("real", {}, "not repeated: noise unknown"), ("sim", {"backend": "sim"}, "simulated")):
        runs = [_arm(tmp_path / f"{name}-{arm}", arm, 2.0, **more) for arm in ("layerwise", "dualpath")]
        evidence = gather(map(Run.load, runs))
        assert beside(evidence) == beside(evidence, evidence.cells[0]) == (words,)


def test_a_void_run_can_be_in_no_cell(tmp_path: Path) -> None:
    run = Run.load(write_run(tmp_path / "r", [], status="void", reasons=["out of disk"]))
    with pytest.raises(RunError, match=r"out of disk.*no figure or mean may use it"):
        Cell("g", (), "dualpath", (run,))


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run directory was given"):
        write_report([], tmp_path / "out", title="None")
    with pytest.raises(RunError, match="no such run directory"):
        write_report([tmp_path / "nowhere"], tmp_path / "out", title="None")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        write_report([write_run(tmp_path / "r", [turn("a", 0, 0, S)])], tmp_path / "file" / "out", title="x")


def test_a_line_does_not_bridge_windows_without_a_load(tmp_path: Path) -> None:
    links = [link(0, 100), link(3 * S, 100)]
    cell = gather([Run.load(write_run(tmp_path / "r", [turn("a", 0, 0, 4 * S)], links))]).cells[0]
    series = with_gaps(balance(cell.middle), S)
    assert series["balance"].to_list() == [2.0, None, None, 2.0]


def test_the_middle_repeat_is_the_lower_median(tmp_path: Path) -> None:
    runs = [Run.load(_arm(tmp_path / f"r{k}", "dualpath", end, repeat=k)) for k, end in enumerate((3.0, 1.0, 2.0, 4.0))]
    cell = gather(runs).cells[0]
    assert cell.middle is runs[2]
    assert cell.jct_s == pytest.approx(2.5)


def test_panels_that_share_an_axis_show_every_point(tmp_path: Path) -> None:
    """Balance of 1 in the first cluster, of 3 in the second: the scale is not the first one's."""
    turns = [turn("a", 0, 0, 2 * S)]
    even = [link(0, 100, node=node) for node in range(2)]
    runs = [
        write_run(tmp_path / "a", turns, even, arm="dualpath", cluster_keys={"name": "a"}),
        write_run(tmp_path / "b", turns, [link(0, 100)], decode=(2, 1), arm="dualpath", cluster_keys={"name": "b"}),
    ]
    style.apply()
    figure = balance_over_time(gather(map(Run.load, runs)))
    assert figure is not None
    assert re.search(r">3\.0+<", figure.svg)
