"""The command line as a user meets it: help, exit codes, one line per error, JSON last."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import polars as pl
import pytest
from dualpath.cli import cli, main
from dualpath.core.arms import ARMS
from dualpath.core.errors import WorkerError

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """Run the command line in this process: (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dualpath", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capfd.readouterr()
        return int(stop.value.code or 0), out, err

    return run


def command_at(path: tuple[str, ...]) -> click.Command:
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None
        command = found
    return command


def commands(path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    group = command_at(path)
    if isinstance(group, click.Group):
        for name in group.list_commands(click.Context(group)):
            yield from commands((*path, name))


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_every_command_has_help_with_an_example(call: Call, path: tuple[str, ...]) -> None:
    code, out, _ = call(*path, "--help")
    assert code == 0
    example = out.partition("Example:\n")[2]
    assert f"dualpath {' '.join(path)}".strip() in example


def test_examples_in_the_help_use_commands_and_options_that_exist() -> None:
    for path in commands():
        for line in (command_at(path).epilog or "").splitlines():
            words = line.split()
            if words[:1] != ["dualpath"]:
                continue
            named = max((path for path in commands() if tuple(words[1 : len(path) + 1]) == path), key=len)
            known = {option for parameter in command_at(named).params for option in parameter.opts}
            assert {word for word in words if word.startswith("-")} <= known, line


@pytest.mark.engine
def test_a_run_then_its_report_and_comparison(
    call: Call, trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    runs = tmp_path / "runs with a blank"
    code, out, err = call(
        *("replay", trace_file, "--cluster", cluster_file(), "--agents", 2, "-o", runs),
        *("--arm", "layerwise", "--arm", "dualpath", "--json"),
    )
    assert code == 0, err
    found = json.loads(out.splitlines()[-1])["runs"]
    assert [(run["status"], run["directory"]) for run in found] == [
        ("ok", str(runs / "layerwise")),
        ("ok", str(runs / "dualpath")),
    ]
    code, out, _ = call("report", runs / "layerwise", runs / "dualpath", "-o", tmp_path / "report", "--json")
    assert code == 0
    page = Path(json.loads(out.splitlines()[-1])["page"])
    assert "dualpath" in page.read_text()
    code, out, _ = call("compare", runs / "layerwise", runs / "dualpath", "--json")
    assert code == 0
    compared = json.loads(out.splitlines()[-1])
    assert compared["trajectories"] == 2
    assert "x  1 pair\n" in out
    assert "no interval: 2 trajectories have a value, of at least 6 that it needs" in out
    interval = compared["trajectory_speed_up"]
    assert (interval["low"], interval["high"]) == (None, None)
    assert compared["run_a"]["latencies"][0]["mean_ns"]["low"] is None
    assert [each["failed"] for each in compared["run_b"]["latencies"]] == [0] * 4
    assert compared["run_b"]["send_lag"]["p99_ns"] > 0


def test_a_void_run_is_compared_by_latencies_alone(
    call: Call, trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    command = ("replay", trace_file, "--cluster", cluster_file(), "--null", "-o", tmp_path / "runs")
    assert call(*command, "--arm", "layerwise", "--arm", "dualpath")[0] == 0
    whole, void = tmp_path / "runs" / "layerwise", tmp_path / "runs" / "dualpath"
    facts = json.loads((void / "run.json").read_text())
    facts.update(status="void", reasons=["DE0 died"], turns_planned=facts["turns_planned"] + 1)
    (void / "run.json").write_text(json.dumps(facts))
    code, out, _ = call("compare", whole, void, "--json")
    assert code == 2
    assert f"no speed-up: {void} is void (DE0 died)" in out
    found = json.loads(out.splitlines()[-1])
    assert "speed_up" not in found
    assert (found["run_a"]["latencies"][0]["failed"], found["run_b"]["latencies"][0]["failed"]) == (0, 1)
    assert found["run_b"]["latencies"][0]["mean_ns"]["value"] == "inf"  # JSON has no infinity
    assert found["run_b"]["void"] == ["DE0 died"]


def test_all_arms_in_one_call(call: Call, trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path) -> None:
    command = ("replay", trace_file, "--cluster", cluster_file(), "--null", "-o", tmp_path / "runs", "--arm", "all")
    code, out, _ = call(*command, "--json")
    assert code == 0
    runs = json.loads(out.splitlines()[-1])["runs"]
    assert [Path(run["directory"]).name for run in runs] == list(ARMS)
    turns = pl.read_parquet(tmp_path / "runs" / "split" / "turns.parquet")
    assert turns["trajectory"].n_unique() == 4, "all agents of the trace"


BAD = [
    (["--rate", "0"], "--rate is 0.0; it must be between"),
    (["--rate", "nan"], "--rate is nan"),
    (["--rate", "5", "--recorded"], "--rate and --recorded exclude each other"),
    (["--recorded"], "'agent-0' has no arrival_ns"),
    (["--gap-scale", "nan"], "--gap-scale is nan"),
    (["--seed", "-1"], "--seed is -1"),
    (["--seed", str(2**63)], "--seed is"),
    (["--scale", "0"], "0 is outside (0, 1]"),
    (["--scale", "1/0"], "'1/0' is not a fraction"),
    (["--scale", "x"], "'x' is not a fraction"),
    (["--agents", "0"], "0 is not in the range 1<=x<="),
    (["--max-len", "1"], "1 is not in the range x>=2"),
    (["--max-len", "5"], "not one of 4 trajectories has a first turn within max-len 5"),
    (["--arm", "fast"], "'fast' is not one of"),
    (["--arm", "split", "--store", "S"], "--store goes with one arm"),
    (["--colour"], "No such option"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[" ".join(options)[:30] for options, _ in BAD])
def test_bad_options_are_named_and_nothing_is_made(
    call: Call,
    trace_file: Path,
    cluster_file: Callable[..., Path],
    tmp_path: Path,
    options: list[str],
    message: str,
) -> None:
    output = tmp_path / "run"
    code, out, err = call(
        "replay", trace_file, "--cluster", cluster_file(), "--arm", "basic", "-o", output, "--null", *options
    )
    assert code == 3
    assert message in " ".join(err.split())
    assert out == ""
    assert not output.exists()


def test_missing_and_foreign_files(call: Call, tmp_path: Path, cluster_file: Callable[..., Path]) -> None:
    trace = tmp_path / "none.parquet"
    for command in (
        ("trace", "stats", trace),
        ("trace", "export", "mooncake", trace, "-o", tmp_path / "x"),
        ("trace", "import", "table", trace, "-o", tmp_path / "x"),
        ("replay", trace, "--cluster", cluster_file(), "--arm", "basic", "-o", tmp_path / "x"),
    ):
        code, out, err = call(*command)
        assert (code, out) == (3, "")
        assert err.startswith(f"error: {trace}: does not exist")
        assert len(err.splitlines()) == 1
    code, _, err = call("trace", "validate", trace)
    assert code == 3
    assert "does not exist" in err
    code, _, err = call("report", tmp_path / "none", "-o", tmp_path / "x")
    assert code == 3
    assert "no such run directory" in err
    assert not (tmp_path / "x").exists()


def test_buffers_too_small_or_too_large(
    call: Call, trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    for size, message in (("64KiB", "cannot hold the trace's largest request"), ("900TiB", "this machine has")):
        code, _, err = call(
            "replay", trace_file, "--cluster", cluster_file(prefill_buffer=size), "--arm", "basic", "-o", tmp_path / "r"
        )
        assert code == 3
        assert message in err
        assert "prefill_buffer" in err
    assert not (tmp_path / "r").exists()


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    """As in `dualpath ... | head -0`."""
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(
        [sys.executable, "-c", "from dualpath.cli import main; main()", "trace", "--help"],
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write)
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("option", "value", "goes_with"),
    [
        ("--gid-index", 1, "--transport verbs"),
        ("--network-timeout", 5, "--transport verbs or nixl"),
        ("--wait", 7, "--listen"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    call: Call,
    trace_file: Path,
    cluster_file: Callable[..., Path],
    tmp_path: Path,
    option: str,
    value: int,
    goes_with: str,
) -> None:
    command = ("replay", trace_file, "--cluster", cluster_file(), "--arm", "basic", "-o", tmp_path / "run")
    code, _, err = call(*command, option, value)
    assert code == 3
    assert f"{option} goes with {goes_with}" in err
    assert not (tmp_path / "run").exists()


def test_a_process_of_ours_that_died_is_no_bad_input(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object, **__: object) -> None:
        raise WorkerError("worker 1 was killed (SIGKILL)")

    monkeypatch.setattr(cli, "main", die)
    assert call("whatif") == (2, "", "error: worker 1 was killed (SIGKILL)\n")


def test_a_void_run_has_its_own_exit_code(
    call: Call, trace_file: Path, cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    """A store whose one segment cannot be written: the engine fails when it starts."""
    store = tmp_path / "store"
    command = ("replay", trace_file, "--cluster", cluster_file(), "--arm", "basic")
    assert call(*command, "-o", tmp_path / "first", "--store", store)[0] == 0
    segment = next(store.glob("*.seg"))
    segment.unlink()
    segment.mkdir()
    code, out, err = call(*command, "-o", tmp_path / "second", "--store", store)
    assert code == 2
    assert out == ""
    assert "VOID after 0 of" in err
    assert str(segment) in err
