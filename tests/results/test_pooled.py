from __future__ import annotations

from pathlib import Path

import pytest
from dualpath.core.errors import RunError
from dualpath.results.pooled import pooled_s
from dualpath.results.run import Run
from synthetic import S, turn, write_run

# Two agents whose second turns read 1 and 0.5 s at 1 MB/s; without storage turns take 1 and 2 s, and 1 and 4 s.
READS = [
    turn("a", 0, 0, S),
    turn("a", 1, S, 9 * S, hit_tokens=1000),
    turn("b", 0, 0, S),
    turn("b", 1, S, 9 * S, hit_tokens=500),
]
ORACLE = [turn("a", 0, 0, S), turn("a", 1, S, 3 * S), turn("b", 0, 0, S), turn("b", 1, S, 5 * S)]


def _run(path: Path, rows: list[dict[str, object]], **keys: object) -> Run:
    return Run.load(write_run(path, rows, **keys))  # type: ignore[arg-type]


def test_reads_queue_and_the_oracles_time_follows(tmp_path: Path) -> None:
    oracle = _run(tmp_path / "oracle", ORACLE, arm="oracle")
    # a reads from 1 to 2 s and ends at 4; b reads from 2 to 2.5 and ends at 6.5
    assert pooled_s(_run(tmp_path / "single", READS), oracle) == pytest.approx(6.5)
    # both NICs as one: a reads from 1 to 1.5, b from 1.5 to 1.75
    assert pooled_s(_run(tmp_path / "dual", READS, arm="dualpath"), oracle) == pytest.approx(5.75)


def test_says_nothing_where_nothing_is_read_or_no_rate_is_known_or_agents_pause(tmp_path: Path) -> None:
    oracle = _run(tmp_path / "oracle", ORACLE, arm="oracle")
    assert pooled_s(oracle, oracle) is None
    assert pooled_s(_run(tmp_path / "native", READS, cluster_keys={"snic_bytes_per_s": None}), oracle) is None
    assert pooled_s(_run(tmp_path / "online", READS, feed={"mode": "online"}), oracle) is None
    assert pooled_s(_run(tmp_path / "pauses", READS, feed={"gap_s": 1.0}), oracle) is None


def test_an_oracle_of_other_turns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="have other turns"):
        pooled_s(_run(tmp_path / "run", READS), _run(tmp_path / "oracle", ORACLE[:3], arm="oracle"))
