"""Published traces of real agents, imported, shrunk and replayed under every arm."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import polars as pl
import pytest
from dualpath.core.arms import ARMS
from dualpath.replay import Plan, replay
from dualpath.results.predicted import compare_bytes
from dualpath.results.run import Run
from dualpath.trace.commands import import_trace

pytestmark = pytest.mark.engine

TRACES = Path(__file__).resolve().parents[2] / "shared" / "traces"


@pytest.mark.parametrize(
    ("format", "source"),
    [("kv-cache-tester", "kv-cache-tester-v8/sample"), ("table", "agentcgroup-swe-rebench/turns.parquet")],
    ids=["kv-cache-tester-v8", "agentcgroup"],
)
def test_every_arm_serves_it_with_the_same_hits(
    format: str, source: str, cluster_file: Callable[..., Path], tmp_path: Path
) -> None:
    if not (TRACES / source).exists():
        pytest.skip(f"{TRACES / source} is not there")
    trace = tmp_path / "real.parquet"
    import_trace(format, TRACES / source, trace)
    served: list[pl.DataFrame] = []
    for arm in ARMS:
        plan = Plan(trace, cluster_file(), arm, tmp_path / arm, agents=2, scale=Fraction(1, 64), max_len=600)
        outcome = replay(plan, lambda ended, planned: None)
        assert outcome.status == "ok", outcome.reasons
        run = Run.load(tmp_path / arm)
        assert compare_bytes(run).is_equal
        columns = ["trajectory", "turn", "hit_tokens", "miss_tokens", "generate_tokens"]
        served.append(run.turns.select(columns).sort("trajectory", "turn").collect())
    assert served[0]["hit_tokens"].sum() > 0
    assert all(rows.equals(served[0]) for rows in served)
