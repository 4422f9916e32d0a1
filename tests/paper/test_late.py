"""What a run shows in the last quarter of its arrivals."""

from __future__ import annotations

from pathlib import Path

import pytest
from dualpath.paper.late import measure
from dualpath.results.run import Run
from synthetic import S, turn, write_run


def test_agents_hold_their_context_through_their_gaps(tmp_path: Path) -> None:
    """Four agents arrive in 400 s: two turns of 10 s each, 80 s apart. The window is [300, 400)."""
    rows = [
        turn(f"t{k}", number, (100 * k + 90 * number) * S, (100 * k + 90 * number + 10) * S)
        for k in range(4)
        for number in range(2)
    ]
    feed = {"mode": "online", "rate_per_s": 4 / 400}
    found = measure(Run.load(write_run(tmp_path / "run", rows, backend="sim", feed=feed)))
    assert (found.begin_ns, found.end_ns) == (300 * S, 400 * S)
    assert found.trajectory_s == 100
    assert found.ttft_s == pytest.approx(7.5)
    assert found.agents == pytest.approx(1.0)
    assert found.live_tokens == pytest.approx(128)
    assert not found.is_within_slo
