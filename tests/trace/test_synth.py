from __future__ import annotations

import runpy
from itertools import islice
from pathlib import Path

import pytest
from dualpath.core.errors import TraceError
from dualpath.core.trajectory import Trajectory
from dualpath.trace.reader import TraceFile
from dualpath.trace.synth import BLOCK, SETS, synthesize, synthetic_meta
from dualpath.trace.validate import validate
from dualpath.trace.writer import TraceWriter

TRACES = Path(__file__).parents[2] / "traces"


def _table2(trajectories: list[Trajectory]) -> dict[str, float]:
    """The paper's columns, written out plainly: means of per-trajectory means."""
    turns, appends, outputs, totals, contexts = [], [], [], [], []
    for trajectory in trajectories:
        count = len(trajectory.turns)
        prompts = trajectory.prompt_tokens()
        turns.append(count)
        appends.append(sum(turn.append_tokens for turn in trajectory.turns) / count)
        outputs.append(sum(turn.generate_tokens for turn in trajectory.turns) / count)
        contexts.append(sum(prompts) / count)
        totals.append(prompts[-1] + trajectory.turns[-1].generate_tokens)
    names = ("turns", "append", "generate", "total", "context")
    columns = (turns, appends, outputs, totals, contexts)
    return {name: sum(values) / len(trajectories) for name, values in zip(names, columns, strict=True)}


PAPER = {  # Table 2, typed in again from the paper
    "32k": (60, 608, 148, 28_639, 17_183),
    "48k": (106, 474, 172, 42_607, 25_120),
    "64k": (157, 429, 176, 55_958, 32_721),
}


def _check(name: str, trajectories: list[Trajectory]) -> None:
    assert len(trajectories) == 500
    for (column, value), paper in zip(_table2(trajectories).items(), PAPER[name], strict=True):
        assert value == pytest.approx(paper, rel=0.01), column


@pytest.mark.parametrize("name", SETS)
def test_shipped_sets_meet_table_2(name: str) -> None:
    path = TRACES / f"agents-{name}.parquet"
    assert path.stat().st_size < 1 << 20
    with TraceFile.open(path) as trace:
        trajectories = list(trace)
    _check(name, trajectories)
    limit = SETS[name].max_len
    assert all(t.prompt_tokens()[-1] + t.turns[-1].generate_tokens <= limit for t in trajectories)


@pytest.mark.parametrize(("name", "seed"), [("32k", 2), ("48k", 3), ("64k", 4)])
def test_other_seeds_meet_table_2(name: str, seed: int) -> None:
    _check(name, list(synthesize(name, 500, seed)))


@pytest.mark.parametrize("name", SETS)
def test_turns_are_long_tailed_and_outputs_fall_with_turns(name: str) -> None:
    """traces/SCHEMA.md, what the sets are fitted to beyond Table 2."""
    with TraceFile.open(TRACES / f"agents-{name}.parquet") as trace:
        trajectories = list(trace)
    turns = [len(trajectory.turns) for trajectory in trajectories]
    mean = sum(turns) / len(turns)
    spread = (sum((count - mean) ** 2 for count in turns) / len(turns)) ** 0.5
    assert 0.55 < spread / mean < 0.75
    assert 3.0 < max(turns) / mean < 5.0
    generated = sum(turn.generate_tokens for t in trajectories for turn in t.turns) / len(turns)
    assert generated < 0.92 * mean * _table2(trajectories)["generate"]
    early = [a for t in trajectories if len(t.turns) > 40 for a in t.turns[1:11]]
    late = [a for t in trajectories if len(t.turns) > 40 for a in t.turns[31:41]]
    assert sum(turn.append_tokens for turn in late) < 0.8 * sum(turn.append_tokens for turn in early)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = str(TRACES / "make.py")
    monkeypatch.setattr("sys.argv", [program, str(tmp_path)])
    runpy.run_path(program, run_name="__main__")
    assert {path.stem for path in tmp_path.iterdir()} == {"smoke", *(f"agents-{name}" for name in SETS)}
    again = tmp_path / "again.parquet"
    with TraceWriter(again, synthetic_meta("64k", 500, 1)) as writer:
        for trajectory in synthesize("64k", 500, 1):
            writer.write(trajectory)
    assert again.read_bytes() == (tmp_path / "agents-64k.parquet").read_bytes()
    assert list(synthesize("48k", 5, 1)) != list(synthesize("48k", 5, 2))


def test_sessions_come_in_blocks_and_fewer_are_the_first_of_more() -> None:
    few = list(synthesize("48k", 3, 2))
    more = list(islice(synthesize("48k", BLOCK + 2, 2), BLOCK + 1))
    assert more[:3] == few
    assert len({trajectory.id for trajectory in more}) == BLOCK + 1
    assert more[BLOCK].turns != more[0].turns


def test_unknown_sets_and_no_sessions_are_refused() -> None:
    with pytest.raises(TraceError, match="the sets are 32k, 48k, 64k"):
        synthesize("16k", 5, 1)
    with pytest.raises(TraceError, match="sessions is 0"):
        synthesize("32k", 0, 1)


def test_smoke_is_tiny() -> None:
    path = TRACES / "smoke.parquet"
    assert validate(path).is_valid
    with TraceFile.open(path) as trace:
        trajectories = list(trace)
    assert len(trajectories) == 8
    assert all(3 <= len(trajectory.turns) <= 6 for trajectory in trajectories)
    assert all(trajectory.prompt_tokens()[-1] < 700 for trajectory in trajectories)
