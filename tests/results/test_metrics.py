from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from dualpath.results.metrics import METRICS, TTFT_PARTS, gap_closed, per_trajectory, per_turn, summary
from dualpath.results.percentiles import percentile_intervals
from dualpath.results.run import Run
from synthetic import MS, S, turn, write_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """a: 0-8 s and 8-16 s; b: 2-6 s with one generated token."""
    rows = [
        turn("a", 0, 0, 8 * S),
        turn("a", 1, 8 * S, 16 * S),
        turn("b", 0, 2 * S, 6 * S, generate_tokens=1, first_token_ns=6 * S),
    ]
    return Run.load(write_run(tmp_path / "r", rows))


def test_each_turn_metric_by_hand(run: Run) -> None:
    rows = per_turn(run).sort("trajectory", "turn").collect()
    seconds = {tag: (rows[tag] / S).to_list() for tag in ("ttft", *TTFT_PARTS, "ttst", "tpot")}
    assert seconds == {
        "ttft": [6.0, 6.0, 4.0],
        "release": [0.5, 0.5, 0.25],
        "schedule": [0.5, 0.5, 0.25],
        "allocate": [1.0, 1.0, 0.5],
        "read": [2.0, 2.0, 1.0],
        "prefill": [2.0, 2.0, 2.0],
        "ttst": [1.0, 1.0, None],
        "tpot": [1.0, 1.0, None],  # 2 s over the 2 tokens after the first
    }


def test_parts_sum_exactly_to_ttft_also_where_nothing_was_read(tmp_path: Path) -> None:
    odd = {"scheduled_ns": 1 * MS + 1, "first_token_ns": 123_456_789}
    rows = [
        turn("a", 0, 7, 1 * S, **odd, read_start_ns=2 * MS + 3, read_end_ns=3 * MS + 5),
        turn("b", 0, 7, 1 * S, **odd, read_start_ns=None, read_end_ns=None),
        turn("c", 0, 7, 1 * S, **odd, read_start_ns=2 * MS + 3, read_end_ns=None),
    ]
    found = per_turn(Run.load(write_run(tmp_path / "r", rows))).collect()
    assert found["ttft"].to_list() == [123_456_782.0] * 3
    assert sum(found[part] for part in TTFT_PARTS).to_list() == found["ttft"].to_list()
    assert found.sort("trajectory")["read"].to_list()[1:] == [0.0, 0.0]


def test_trajectory_and_run_metrics_by_hand(run: Run) -> None:
    trajectories = per_trajectory(run).collect()
    assert trajectories["trajectory"].to_list() == ["a", "b"]
    assert trajectories["trajectory_jct"].to_list() == [16.0 * S, 4.0 * S]
    whole = summary(run)
    assert whole["jct"] == 16.0 * S
    assert whole["prompt_rate"] == 3 * 128 / 16
    assert whole["generated_rate"] == 7 / 16
    assert whole["hit_rate_planned"] == pytest.approx(64 / 384)
    assert whole["hit_rate_measured"] == pytest.approx(64 / 384)
    assert whole["ttft"] == pytest.approx(16 / 3 * S)
    assert whole["ttft_p50"] == 6.0 * S
    assert whole["trajectory_jct"] == 10.0 * S


def test_hit_rates_are_weighted_by_tokens_and_differ_where_the_store_was_late(tmp_path: Path) -> None:
    rows = [turn("a", 0, 0, S), turn("a", 1, S, 2 * S, planned_hit_tokens=192, hit_tokens=64, miss_tokens=192)]
    whole = summary(Run.load(write_run(tmp_path / "r", rows)))
    assert whole["hit_rate_planned"] == 192 / 384
    assert whole["hit_rate_measured"] == 64 / 384


def test_a_failed_turn_has_infinite_latency(tmp_path: Path) -> None:
    failed = {"status": "unfinished", "first_token_ns": None, "second_token_ns": None, "end_ns": None}
    run = Run.load(write_run(tmp_path / "r", [turn("a", 0, 0, S), {**turn("a", 1, S, 2 * S), **failed}]))
    rows = per_turn(run).sort("turn").collect()
    for tag in ("ttft", *TTFT_PARTS, "ttst", "tpot"):
        assert rows[tag].to_list()[1] == math.inf
        assert math.isfinite(rows[tag].to_list()[0])
    whole = summary(run)
    assert (whole["jct"], whole["trajectory_jct"], whole["ttft_p99"]) == (math.inf, math.inf, math.inf)
    assert whole["ttft_p50"] is not None
    assert whole["prompt_rate"] == 0.0


@pytest.mark.parametrize("num", [1, 2, 52, 60, 100, 101, 199])
def test_percentiles_are_of_nearest_rank_as_those_with_intervals_are(tmp_path: Path, num: int) -> None:
    """Among fewer than 100 turns the 99th percentile is the slowest, and infinite where that one failed."""
    failed = {"status": "unfinished", "first_token_ns": None, "second_token_ns": None, "end_ns": None}
    rows = [turn("a", each, 0, S, first_token_ns=(each + 1) * MS) for each in range(num - 1)]
    run = Run.load(write_run(tmp_path / "r", [*rows, {**turn("a", num - 1, 0, S), **failed}]))
    whole, ttft = summary(run), per_turn(run).collect()["ttft"].to_numpy()
    intervals = percentile_intervals(ttft, np.zeros(num, np.int64), (0.5, 0.99), count=1)
    assert [whole["ttft_p50"], whole["ttft_p99"]] == [each.value for each in intervals if each]
    assert (whole["ttft_p99"] == math.inf) == (num < 100)


def test_values_that_do_not_exist_stay_none(tmp_path: Path) -> None:
    run = Run.load(write_run(tmp_path / "r", [turn("a", 0, 0, S, generate_tokens=1)]))
    whole = summary(run)
    assert whole["ttst"] is None
    assert whole["tpot_p99"] is None


def test_share_of_the_gap() -> None:
    assert gap_closed(6.0, 10.0, 2.0) == 0.5
    assert gap_closed(6.0, 2.0, 2.0) is None


def test_every_metric_declares_what_it_means() -> None:
    for tag, metric in METRICS.items():
        assert metric.expr.meta.output_name() == tag
        assert metric.unit
        assert metric.formula
