"""A gate from its specification to its verdict, on two small checkouts whose programs leave a synthetic run."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from dualpath.cli.gates import gate_command
from dualpath.core.errors import PlanError, RunError
from dualpath.gate.gate import Request, gate
from dualpath.gate.verdict import Verdict
from dualpath.provenance import host
from synthetic import S, link, turn, write_run

PROGRAM = "import shutil, sys\nshutil.copytree('run', sys.argv[1])\n"
COUNTERS = '[[counters]]\nname = "run"\ncommand = "python program.py {out}"\nequal = ["bytes", "hits"]\n'
WALL = '[[wall]]\nname = "jct"\ncommand = "python program.py {out}"\nmeasure = "jct_s"\npairs = 4\n'


def _checkout(root: Path, num_bytes: int = 100, end_ns: int = S, status: str = "ok") -> Path:
    """Its program leaves a run of so many bytes."""
    (root / "harness" / "dualpath").mkdir(parents=True, exist_ok=True)
    (root / "program.py").write_text(PROGRAM)
    shutil.rmtree(root / "run", ignore_errors=True)
    turns = [*(turn(name, 0, 0, S) for name in "abcde"), turn("f", 0, 0, end_ns)]
    write_run(root / "run", turns, [link(0, num_bytes)], status=status)
    return root


def _gate(tmp_path: Path, text: str, base: Path, candidate: Path) -> Verdict:
    spec = tmp_path / "gate.toml"
    spec.write_text(f'name = "small"\n{text}')
    return gate(Request(spec, str(base), str(candidate), tmp_path / "out"), lambda line: None)


def test_equal_sides_pass_and_the_rows_are_kept(tmp_path: Path) -> None:
    found = _gate(tmp_path, COUNTERS + WALL, _checkout(tmp_path / "a"), _checkout(tmp_path / "b"))
    assert (found.status, found.exit_code, len(found.findings)) == ("pass", 0, 3)
    assert "each of 6 sessions +0.000 s [+0.000, +0.000]" in found.findings[2].why
    verdict = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert verdict["status"] == "pass"
    assert verdict["host"]["cores"] >= 1
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows" / "jct" / "times.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 4
    assert rows[0] == {"pair": 0, "column": "base", "commit": "no commit", "times_s": {"jct_s": 1.0}}


def test_a_tier_that_the_specification_lacks_is_bad_input(tmp_path: Path) -> None:
    spec = tmp_path / "gate.toml"
    spec.write_text(f'name = "small"\n{COUNTERS}')
    side = str(_checkout(tmp_path / "a"))
    with pytest.raises(PlanError, match=r"--tier 2: .* has nothing of that tier; it has 1"):
        gate(Request(spec, side, side, tmp_path / "out", (1, 2)), lambda line: None)


def test_an_output_that_cannot_be_made_is_bad_input_and_not_a_verdict(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    spec = tmp_path / "gate.toml"
    spec.write_text(f'name = "small"\n{COUNTERS}')
    side = str(_checkout(tmp_path / "a"))
    with pytest.raises(RunError, match=r"cannot be written: Not a directory"):
        gate(Request(spec, side, side, tmp_path / "file" / "out"), lambda line: None)


def test_more_bytes_and_a_longer_run_fail_and_say_where(tmp_path: Path) -> None:
    slower = _checkout(tmp_path / "b", num_bytes=164, end_ns=1_030_000_000)
    found = _gate(tmp_path, COUNTERS + WALL, _checkout(tmp_path / "a"), slower)
    assert found.exit_code == 1
    assert [each.status for each in found.findings] == ["fail", "pass", "fail"]
    assert "bytes 100 in base, 164 in candidate" in found.reasons[0]
    assert "❌" in found.as_markdown()


@pytest.mark.parametrize("what", ["void run", "failed command", "no command"])
def test_what_could_not_be_measured_is_void_neither_pass_nor_fail(tmp_path: Path, what: str) -> None:
    candidate = _checkout(tmp_path / "b", status="void" if what == "void run" else "ok")
    if what == "failed command":
        (candidate / "program.py").write_text("raise SystemExit('out of luck')")
    text = (
        (COUNTERS + WALL).replace("python program.py", "no-such-program") if what == "no command" else COUNTERS + WALL
    )
    found = _gate(tmp_path, text, _checkout(tmp_path / "a"), candidate)
    assert found.exit_code == 2
    assert {each.status for each in found.findings} == {"void"}
    words = {"void run": "candidate is void", "failed command": "out of luck", "no command": "No such file"}
    assert words[what] in found.reasons[0]


def test_a_command_may_leave_several_runs_and_both_sides_must_leave_the_same(tmp_path: Path) -> None:
    sides = [_checkout(tmp_path / "a"), _checkout(tmp_path / "b", num_bytes=101)]
    for side in sides:
        (side / "program.py").write_text(
            "import shutil, sys\nfor arm in ('basic', 'split'): shutil.copytree('run', f'{sys.argv[1]}/{arm}')\n"
        )
    found = _gate(tmp_path, COUNTERS, *sides)
    assert [(each.name, each.status) for each in found.findings] == [
        ("run, basic: bytes", "fail"),
        ("run, basic: hits", "pass"),
        ("run, split: bytes", "fail"),
        ("run, split: hits", "pass"),
    ]
    (sides[0] / "program.py").write_text("import shutil, sys\nshutil.copytree('run', f'{sys.argv[1]}/basic')\n")
    void = _gate(tmp_path, COUNTERS, *sides)
    assert (void.exit_code, void.reasons[0]) == (2, "void: run: only one side left a run 'split'")


def test_a_difference_that_was_found_stays_found_beside_a_void_part(tmp_path: Path) -> None:
    other = '[[counters]]\nname = "other"\ncommand = "false {out}"\nequal = ["bytes"]\n'
    found = _gate(tmp_path, COUNTERS + other, _checkout(tmp_path / "a"), _checkout(tmp_path / "b", num_bytes=1))
    assert {each.status for each in found.findings} == {"fail", "pass", "void"}
    assert found.exit_code == 1


def _nights(path: Path, levels: Sequence[float]) -> None:
    here = {name: host()[name] for name in ("cpu", "cores")}
    nights = [
        {"commit": f"c{number}", "at": "then", "host": here, "values": {"jct": level + 0.0001 * (number % 3)}}
        for number, level in enumerate(levels)
    ]
    path.write_text("".join(json.dumps(night) + "\n" for night in nights))


def test_nights_are_kept_and_a_rise_over_them_fails(tmp_path: Path) -> None:
    text, history = WALL + '[nightly]\nhistory = "history.jsonl"\n', tmp_path / "history.jsonl"
    _nights(history, [0.9] * 20 + [1.0] * 10)
    found = _gate(tmp_path, text, _checkout(tmp_path / "a"), _checkout(tmp_path / "b"))
    assert [(each.tier, each.status) for each in found.findings] == [(3, "pass"), (4, "fail")]
    assert "since night 21 of 31" in found.findings[1].found
    assert "commit c20" in found.findings[1].why
    assert "base against base" in found.findings[0].why
    assert json.loads(history.read_text().splitlines()[-1])["values"] == {"jct": 1.0}


@pytest.mark.parametrize("levels", [[0.9] * 20 + [1.0] * 20, [0.998] * 20 + [1.0] * 10, [1.1] * 20 + [1.0] * 10])
def test_an_old_a_small_and_a_welcome_change_pass(tmp_path: Path, levels: list[float]) -> None:
    _nights(tmp_path / "history.jsonl", levels)
    text = WALL + '[nightly]\nhistory = "history.jsonl"\n'
    found = _gate(tmp_path, text, _checkout(tmp_path / "a"), _checkout(tmp_path / "b"))
    assert [each.status for each in found.findings] == ["pass", "pass"]
    assert "since night 21" in found.findings[1].found


def test_a_rise_fails_for_some_nights_though_a_smaller_step_came_after_it(tmp_path: Path) -> None:
    _nights(tmp_path / "history.jsonl", [0.985] * 20 + [0.998] * 5 + [1.0] * 6)
    text = WALL + '[nightly]\nhistory = "history.jsonl"\n'
    found = _gate(tmp_path, text, _checkout(tmp_path / "a"), _checkout(tmp_path / "b"))
    assert (found.findings[1].status, "since night 21 of 32" in found.findings[1].found) == ("fail", True)


def test_a_cut_history_is_bad_input_before_anything_runs_and_no_old_verdict_stays(tmp_path: Path) -> None:
    text, history = WALL + '[nightly]\nhistory = "history.jsonl"\n', tmp_path / "history.jsonl"
    sides = _checkout(tmp_path / "a"), _checkout(tmp_path / "b")
    assert _gate(tmp_path, text, *sides).status == "pass"
    with history.open("a") as lines:
        lines.write('{"values": ')
    with pytest.raises(RunError, match="line 2: not JSON"):
        _gate(tmp_path, text, *sides)
    assert not (tmp_path / "out" / "verdict.json").exists()
    assert not (tmp_path / "out" / "rows").exists()


def test_where_nothing_was_measured_nothing_is_kept(tmp_path: Path) -> None:
    text = WALL.replace("python", "no-such-program") + '[nightly]\nhistory = "history.jsonl"\n'
    found = _gate(tmp_path, text, _checkout(tmp_path / "a"), _checkout(tmp_path / "b"))
    assert found.exit_code == 2
    assert not (tmp_path / "history.jsonl").exists()


def test_commits_are_cloned_and_run_their_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = _checkout(tmp_path / "repository")
    git = ["git", "-C", str(repository), "-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    (repository / "harness" / "dualpath" / "keep").touch()
    for num_bytes in (100, 200):
        _checkout(repository, num_bytes)
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "--quiet", "-m", "x"], check=True)
    monkeypatch.chdir(repository)
    spec = tmp_path / "gate.toml"
    spec.write_text('name = "small"\n' + COUNTERS)
    for base, status in (("HEAD^", "fail"), ("HEAD", "pass")):  # the second time the clones are there
        found = gate(Request(spec, base, "HEAD", tmp_path / "out"), lambda line: None)
        assert found.status == status
    assert (
        "bytes 100 in base, 200 in candidate"
        in gate(Request(spec, "HEAD^", ".", tmp_path / "out"), lambda line: None).reasons[0]
    )
    with pytest.raises(PlanError, match="neither a folder nor a commit"):
        gate(Request(spec, "no-such", "HEAD", tmp_path / "out"), lambda line: None)
    # from a hook of another repository, to a relative folder whose name has a blank
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert gate(Request(spec, "HEAD^", "HEAD", Path("out of it")), lambda line: None).status == "fail"
    assert (repository / "out of it" / "rows" / "run" / "base" / "run.json").exists()


def test_a_folder_where_the_clone_should_be_is_never_taken_for_the_repository_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = _checkout(tmp_path / "repository")
    git = ["git", "-C", str(repository), "-c", "user.name=t", "-c", "user.email=t@t"]
    for command in (["init", "--quiet"], ["add", "-A"], ["commit", "--quiet", "-m", "x"]):
        subprocess.run([*git, *command], check=True)
    (repository / "program.py").write_text("not committed")
    (repository / "out" / "base").mkdir(parents=True)
    (tmp_path / "gate.toml").write_text('name = "small"\n' + COUNTERS)
    monkeypatch.chdir(repository)
    with pytest.raises(PlanError, match="no clone; delete it"):
        gate(Request(tmp_path / "gate.toml", "HEAD", "HEAD", Path("out")), lambda line: None)
    assert (repository / "program.py").read_text() == "not committed"


def test_the_command_prints_a_table_and_one_object_and_writes_the_jobs_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, summary = tmp_path / "gate.toml", tmp_path / "summary.md"
    spec.write_text('name = "small"\n' + COUNTERS)
    sides = ["--base", str(_checkout(tmp_path / "a")), "--candidate", str(_checkout(tmp_path / "b", num_bytes=7))]
    arguments = [str(spec), *sides, "-o", str(tmp_path / "out"), "--json", "--github"]
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    refused = CliRunner().invoke(gate_command, arguments, standalone_mode=False)
    assert isinstance(refused.exception, PlanError)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    ran = CliRunner().invoke(gate_command, arguments, standalone_mode=False)
    assert ran.return_value == 1
    *lines, last = ran.stdout.strip().splitlines()
    assert json.loads(last)["exit_code"] == 1
    assert lines[-1].startswith("gate small: FAIL (1 fail, 1 pass)")
    assert any("bytes 100 in base, 7 in candidate" in line for line in lines)
    assert "run: bytes | ❌ fail" in summary.read_text()
