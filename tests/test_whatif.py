"""Sweeps: which points, what binds at each, what is kept, and what a bad question is told."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from dualpath.cli import main
from dualpath.core.arms import ARMS
from dualpath.core.errors import DualpathError
from dualpath.plan import Plan
from dualpath.results.binding import CANDIDATES
from dualpath.results.points import Finding, Point, Row, Swept, point_of
from dualpath.results.run import Run
from dualpath.results.slo import parse_slo
from dualpath.simulate import simulate, simulated_cluster
from dualpath.whatif import ROWS, Sweep, whatif
from dualpath.whatif_grid import point_at

ROOT = Path(__file__).resolve().parents[1]
SHAPES = "1P1D,1P2D"
Constants = tuple[tuple[str, float], ...]


def plan(shipped: str = "paper-ds27b-1p1d", **more: object) -> Plan:
    whole = Plan(
        ROOT / "traces" / "agents-32k.parquet",
        ROOT / "bench" / "clusters" / f"{shipped}.toml",
        "layerwise",
        Path(),
        backend="sim",
        agents=6,
        max_len=4096,
    )
    return replace(whole, **more)  # type: ignore[arg-type] # fields of Plan


def sweep(output: Path | None = None, **more: object) -> Sweep:
    whole = Sweep(plan(), nodes=SHAPES, snic="5Gbit/s,400Gbit/s", cnic="400Gbit/s", output=output, jobs=1)
    return replace(whole, **more)  # type: ignore[arg-type] # fields of Sweep


def quietly(done: int, total: int) -> None:
    pass


def rows_of(swept: Swept) -> list[Row]:
    return [row for finding in swept.findings for row in finding.rows.values()]


# A sweep


def test_a_slow_storage_nic_makes_dual_path_pay(tmp_path: Path) -> None:
    swept = whatif(sweep(plan=plan(agents=48), snic="2Gbit/s,400Gbit/s", nodes="1P1D"), quietly)
    slow, fast = swept.findings
    assert slow.pays
    assert (slow.ratio("dualpath") or 0) > 1.3
    assert not fast.pays
    assert (slow.ratio("layerwise"), slow.binding("layerwise").candidate) == (1, "snic_prefill")  # type: ignore[union-attr]
    assert swept.given == point_at(simulated_cluster(plan())[0])


def test_a_row_is_what_simulate_says(tmp_path: Path) -> None:
    load = plan(agents=12)
    point = point_at(simulated_cluster(load)[0])
    swept = whatif(sweep(plan=load, nodes=None, snic=None, cnic=None, arms=("split",)), quietly)
    finding = swept.at(point)
    assert finding is not None
    for arm in ("layerwise", "split"):
        outcome = simulate(replace(load, arm=arm, output=tmp_path / arm), quietly)
        assert finding.seconds(arm) == outcome.jct_s
        assert finding.rows[arm]["turns"] == Run.load(tmp_path / arm).turns.collect().height


@pytest.mark.parametrize("arm", [name for name, arm in ARMS.items() if not arm.moves_kv])
def test_an_arm_that_moves_no_kv_does_not_know_how_fast_links_are(arm: str) -> None:
    """So it is simulated once for each shape."""
    load = plan(agents=24)
    lone = [whatif(sweep(plan=load, nodes="1P2D", arms=(arm,), snic=snic), quietly) for snic in ("1Gbit/s", "1TB/s")]
    times = [swept.findings[0].seconds(arm) for swept in lone]
    assert times[0] == times[1]
    both = whatif(sweep(plan=load, nodes="1P2D", arms=(arm,), snic="1Gbit/s,1TB/s"), quietly)
    assert [finding.seconds(arm) for finding in both.findings] == times


def test_two_processes_find_what_one_does() -> None:
    one, two = (whatif(sweep(jobs=jobs), quietly) for jobs in (1, 2))
    assert one.findings == two.findings


def test_rows_and_page_are_kept_and_a_second_call_adds_to_them(tmp_path: Path) -> None:
    out = tmp_path / "out"
    whatif(sweep(out), quietly)
    rows = pl.read_parquet(out / ROWS)
    assert rows.height == 4 * 4
    assert rows.select("prefill_nodes", "decode_nodes", "snic_bytes_per_s", "cnic_bytes_per_s", "arm").is_unique().all()
    page = (out / "index.html").read_text()
    assert page.count("<svg") == 3
    assert "largest-lower-bound" in page
    for name in ("gain-dualpath", "gain-split", "binding"):
        assert (out / "figures" / f"{name}.png").stat().st_size > 10_000
        assert "var(--" not in (out / "figures" / f"{name}.svg").read_text()
    told: list[tuple[int, int]] = []
    whatif(sweep(out, nodes=f"{SHAPES},2P1D", jobs=1), lambda done, total: told.append((done, total)))
    assert told[0] == (16, 24), "nothing that was there is simulated again"
    assert told[-1] == (24, 24)
    assert pl.read_parquet(out / ROWS).height == 24


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupted_sweep_keeps_what_is_done_and_goes_on(tmp_path: Path, jobs: int) -> None:
    def interrupt(done: int, total: int) -> None:
        if done >= 2:
            raise KeyboardInterrupt

    swept = whatif(sweep(tmp_path, jobs=jobs), interrupt)
    assert swept.is_interrupted
    kept = pl.read_parquet(tmp_path / ROWS).height
    assert 2 <= kept < 16
    assert "not complete" in (tmp_path / "index.html").read_text()
    told: list[int] = []
    again = whatif(sweep(tmp_path), lambda done, total: told.append(done))
    assert told[0] == kept
    assert not again.is_interrupted
    assert again.findings == whatif(sweep(), quietly).findings


def test_a_point_that_cannot_serve_the_trace_says_so(tmp_path: Path) -> None:
    """All layers of the longest prompt fit no PE's device memory, where an arm wants them so; and 3 nodes cannot be
    shared out among pass groups of two."""
    load = plan("paper-ds660b-2p4d", constants=(("prefill_hbm_gb", 0.1), ("pass_engines", 16)))
    swept = whatif(sweep(tmp_path, plan=load, nodes="2P1D,3P1D", snic="400Gbit/s", arms=("basic", "dualpath")), quietly)
    two, three = swept.findings
    assert two.rows["basic"]["status"] == "unfit"
    assert "prefill_hbm" in two.rows["basic"]["error"]
    assert two.gain is not None
    assert {row["status"] for row in three.rows.values()} == {"unfit"}
    assert "pass_engines = 16 does not divide" in three.verdict
    assert three.gain is None
    assert "pass_engines = 16 does not divide" in (tmp_path / "index.html").read_text()


def test_a_run_that_breaks_is_a_void_row_and_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("dualpath.whatif.run_in_memory", lambda machine, starts: 1 / 0)
        swept = whatif(sweep(tmp_path, nodes="1P1D"), quietly)
    assert swept.has_failed
    assert {row["error"] for row in rows_of(swept)} == {"ZeroDivisionError: division by zero"}
    assert not whatif(sweep(tmp_path, nodes="1P1D"), quietly).has_failed


# Online


def test_online_the_measure_is_ttft_and_an_slo_is_met_or_never(tmp_path: Path) -> None:
    load = plan(agents=24, mode="online", rate_per_s=2.0)
    swept = whatif(sweep(tmp_path, plan=load, nodes="1P1D", slo="ttft=100s,tpot=10s"), quietly)
    assert swept.measure == "ttft"
    assert {finding.verdict for finding in swept.findings} == {"meets"}
    ttft_ns = swept.findings[0].rows["layerwise"]["ttft_ns"]
    assert swept.findings[0].seconds("layerwise") == ttft_ns / 1e9
    never = whatif(sweep(tmp_path, plan=load, nodes="1P1D", slo="tpot=1us"), quietly)
    assert {finding.verdict for finding in never.findings} == {"never meets the SLO"}
    assert "never meets the SLO" in (tmp_path / "index.html").read_text()


def test_an_slo_tells_arms_apart() -> None:
    row = {"status": "ok", "ttft_ns": 2e9, "tpot_ns": 1e6, "ttft_p99_ns": 9e9}
    rows = {
        "layerwise": {**row, "ttft_ns": 4.1e9},
        "dualpath": row,
        "oracle": {**row, "ttft_ns": 1e9},
    }
    point = Point(1, 1, 1e9, 1e9)

    def verdict(slo: str) -> str:
        return Finding(point, rows, "ttft", parse_slo(slo)).verdict

    assert verdict("ttft=5s,tpot=50ms") == "meets"
    assert verdict("ttft=4s") == "meets: dualpath"
    assert verdict("ttft=1500ms") == "never meets the SLO (only oracle would)"
    assert verdict("ttft=5s, ttft_p99=8 s") == "never meets the SLO"
    assert Finding(point, rows, "ttft", parse_slo("ttft=4s")).pays


# Bad questions


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"nodes": "0P4D"}, "--nodes 0P4D: needs at least 1 prefill node and 1 decode node"),
        ({"nodes": "4D2P"}, "--nodes '4D2P' is no shape; write prefill and decode nodes, such as 2P4D"),
        ({"nodes": "1P1D,"}, "--nodes '' is no shape"),
        ({"snic": "0Gbit/s"}, "--snic = '0Gbit/s' must be at least 1 B/s"),
        ({"snic": "400"}, "--snic = '400' is not a rate"),
        ({"cnic": "400Gbit/s,-1GB/s"}, "--cnic = '-1GB/s' is not a rate"),
        ({"nodes": ",".join(f"{n}P1D" for n in range(1, 2500))}, "are 4,998 points; at most 4,096"),
        ({"slo": "ttft=4s"}, "--slo ttft=4s without arrivals"),
    ],
)
def test_bad_sweeps_are_named_and_nothing_is_made(tmp_path: Path, changes: dict[str, str], says: str) -> None:
    with pytest.raises(DualpathError, match=re.escape(says)) as error:
        whatif(sweep(tmp_path / "out", **changes), quietly)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "gpt-9"}, "--model 'gpt-9' is unknown; models with a profile of their own: ds-660b, ds-27b"),
        ({"model": "cpu-gqa"}, "profile 'cpu-gqa': neither a shipped profile (ds-27b, ds-660b"),
        ({"constants": (("decode_hbm_gb", 0.01),)}, "decode_hbm = 9.5 MiB cannot hold the trace's largest request"),
        ({"max_len": 1}, "max-len is 1; it must be at least 2"),
        ({"trace": ROOT / "nowhere.parquet"}, "does not exist"),
        ({"cluster": ROOT / "nowhere.toml"}, "no such cluster file"),
        ({"cluster": ROOT / "bench" / "clusters" / "cpu-1p1d.toml"}, "no profile"),
    ],
)
def test_bad_plans_are_named_and_nothing_is_made(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(DualpathError, match=re.escape(says)) as error:
        whatif(sweep(tmp_path / "out", plan=plan(**changes)), quietly)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ttft", "'' is no time"),
        ("ttft=4", "'4' is no time"),
        ("ttft=0s", "the limit must be above 0"),
        ("jct=4s", "'jct' is no latency; they are ttft, ttft_p50"),
        ("ttft=4s,ttft=5s", "limits ttft twice"),
        ("", "'' is no latency"),
    ],
)
def test_bad_slos_are_named(text: str, says: str) -> None:
    with pytest.raises(DualpathError, match=re.escape(says)):
        parse_slo(text)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DualpathError, match="exists and holds no sweep"):
        whatif(sweep(tmp_path), quietly)
    with pytest.raises(DualpathError, match="exists and holds no sweep"):
        whatif(sweep(tmp_path / "mine.txt"), quietly)
    with pytest.raises(DualpathError, match="cannot hold a sweep"):
        whatif(sweep(Path("/proc/nowhere")), quietly)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"agents": 7}, "choice of trajectories"),
        ({"mode": "online", "rate_per_s": 1.0}, "way of arriving"),
        ({"model": "ds-660b"}, "cluster, profile"),
        ({"trace": ROOT / "traces" / "agents-48k.parquet"}, "trace"),
    ],
)
def test_a_sweep_is_not_mixed_with_another(tmp_path: Path, changes: dict[str, object], differs: str) -> None:
    whatif(sweep(tmp_path, nodes="1P1D"), quietly)
    with pytest.raises(DualpathError, match=f"holds a sweep with another {differs}; choose another -o"):
        whatif(sweep(tmp_path, nodes="1P1D", plan=plan(**changes)), quietly)
    (tmp_path / ROWS).write_bytes(b"no table")
    with pytest.raises(DualpathError, match="cannot be read"):
        whatif(sweep(tmp_path, nodes="1P1D"), quietly)


def test_facts_say_what_it_was(tmp_path: Path) -> None:
    swept = whatif(sweep(tmp_path, nodes="1P1D", arms=("dualpath",)), quietly)
    facts = json.loads((tmp_path / "sweep.json").read_text())
    assert facts["code"]
    assert facts["cluster"]["model"] == "ds-27b"
    assert {row["arm"] for row in rows_of(swept)} == {"layerwise", "dualpath"}
    assert [point_of(row) for row in rows_of(swept)][::2] == [finding.point for finding in swept.findings]


# The command


def test_the_command_prints_a_table_sentences_and_json(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = f"whatif {plan().trace} --model ds-27b --cluster {plan().cluster} --agents 6 --max-len 4096 --jobs 1"
    more = f"--nodes 1P1D --snic 5Gbit/s,400Gbit/s --cnic 400Gbit/s -o {tmp_path} --json"
    assert called([*words.split(), *more.split()], monkeypatch) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["nodes", "SNIC,"]
    assert lines[1].startswith("1P1D ")
    assert any(line.startswith("Another path than layerwise's pays at ") for line in lines)
    assert str(tmp_path / "index.html") in lines
    said = json.loads(lines[-1])
    assert (said["measure"], said["rule"], len(said["points"])) == ("jct", "largest-lower-bound", 2)
    arm = said["points"][0]["arms"]["dualpath"]
    assert arm["binds"] in CANDIDATES.values()
    assert arm["shares"].keys() == CANDIDATES.keys()
    assert arm["ratio"] == pytest.approx(said["points"][0]["arms"]["layerwise"]["jct_s"] / arm["jct_s"])


def test_a_bad_question_is_one_line_and_exit_code_3(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = f"whatif {plan().trace} --cluster {plan().cluster} --nodes 0P1D"
    assert called(words.split(), monkeypatch) == 3
    assert capfd.readouterr().err == "error: --nodes 0P1D: needs at least 1 prefill node and 1 decode node\n"


def called(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["dualpath", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)
