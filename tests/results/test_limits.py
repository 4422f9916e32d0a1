from __future__ import annotations

import math
from pathlib import Path

import polars as pl
import pytest
from dualpath.results.limits import limits_reached, num_cut
from dualpath.results.run import Run
from synthetic import S, turn, write_run

CONSTANTS = {"alpha_s": 3.0, "read_tokens_per_s": 100.0, "beta_s": 5.0, "prefill_tokens_per_s": 200.0}


def test_by_hand(tmp_path: Path) -> None:
    """Turns of 128 prompt tokens each: on PE 0 two overlap, a third begins as the first is sent on; on PE 1 one."""
    rows = [
        turn("a", 0, 0, 8 * S, scheduled_ns=1 * S, prefill_end_ns=5 * S, prefill_queue_tokens=30),
        turn("b", 0, 0, 8 * S, scheduled_ns=2 * S, prefill_end_ns=6 * S, decode_queue_tokens=75),
        turn("c", 0, 0, 8 * S, scheduled_ns=5 * S, prefill_end_ns=7 * S),
        turn("d", 0, 0, 8 * S, scheduled_ns=2 * S, prefill_end_ns=3 * S, prefill_engine=1),
    ]
    run = Run.load(write_run(tmp_path / "r", rows, cluster_keys={"constants": CONSTANTS}))
    found = limits_reached(run)
    assert found["read queue of a node, of alpha"] == 75 / 300
    assert found["tokens of a PE, of beta"] == 256 / 1000


def test_a_run_that_does_not_say_its_limits(tmp_path: Path) -> None:
    found = limits_reached(Run.load(write_run(tmp_path / "r", [turn("a", 0, 0, S)])))
    assert math.isnan(found["tokens of a PE, of beta"])


@pytest.mark.parametrize(("commands", "cut"), [("[]", 0), ('[{"last":false},{"last":true},{"last":false}]', 2)])
def test_cut_prompts_are_counted(tmp_path: Path, commands: str, cut: int) -> None:
    directory = write_run(tmp_path / "r", [turn("a", 0, 0, S)])
    path = directory / "decisions.parquet"
    schema = pl.read_parquet(path).schema
    row = {"index": 0, "t_ns": 0, "cost_ns": 0, "event": "[]", "commands": commands}
    pl.DataFrame([row], schema=schema).write_parquet(path)
    assert num_cut(Run.load(directory)) == cut
