from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from dualpath.core.errors import RunError
from dualpath.gate.history import LEAST_RISE, Night, append, changes, load, series

HERE = {"cpu": "one", "cores": 2}


def test_a_level_series_has_no_change_and_chance_is_rarely_taken_for_one() -> None:
    rng = np.random.default_rng(3)
    assert changes([1.0] * 40) == []
    assert changes([1.0, 2.0] * 4) == []  # too short
    assert sum(bool(changes(rng.normal(1, 0.02, 40).tolist())) for _ in range(40)) <= 2


def test_a_step_is_found_where_it_is_and_odd_nights_are_not_steps() -> None:
    rng = np.random.default_rng(4)
    values = np.concatenate([rng.normal(1, 0.02, 20), rng.normal(1.06, 0.02, 20)])
    values[7] = 3.0
    (found,) = changes(values.tolist())
    assert abs(found.first - 20) <= 2
    assert found.before == pytest.approx(1, abs=0.02)
    assert found.after == pytest.approx(1.06, abs=0.02)


def test_two_steps_are_both_found() -> None:
    rng = np.random.default_rng(5)
    values = np.concatenate([rng.normal(level, 0.01, 20) for level in (1.0, 1.1, 0.9)])
    assert [change.first for change in changes(values.tolist())] == pytest.approx([20, 40], abs=1)


def test_a_drift_is_held_against_where_it_began_and_not_against_the_last_small_step() -> None:
    """A twentieth of a per cent a night: no step is a rise of its own."""
    rng = np.random.default_rng(6)
    values = (1 + 0.0005 * np.arange(90)) * rng.normal(1, 0.001, 90)
    found = changes(values.tolist())
    assert max(after.after / before.after for before, after in pairwise(found)) < 1.01
    assert sum(change.rise > LEAST_RISE for change in found) >= 3
    assert found[0].first < 40


def test_after_a_fall_a_level_is_held_against_the_lower_one() -> None:
    rng = np.random.default_rng(7)
    levels = np.repeat([1.0, 0.97, 0.978, 0.986], 20)
    found = changes((levels * rng.normal(1, 0.001, 80)).tolist())
    assert [change.before for change in found] == pytest.approx([1.0, 0.97, 0.97], abs=0.001)
    assert [change.rise > LEAST_RISE for change in found] == [False, False, True]


def test_nights_are_kept_line_by_line_and_a_cut_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "history.jsonl"
    assert load(path) == []
    append(path, {"at": "1", "commit": "a", "host": HERE, "values": {"jct": 2.0, "events": 3}})
    path.write_text(path.read_text().rstrip())  # as an editor may leave it
    append(path, {"at": "2", "commit": "b", "host": HERE, "values": {"jct": 2.5}})
    found = series(load(path), HERE)
    assert found == {"jct": [Night(2.0, "1", "a"), Night(2.5, "2", "b")], "events": [Night(3.0, "1", "a")]}
    assert series(load(path), {"cpu": "another", "cores": 2}) == {}
    for text, words in (('{"values": ', "line 3: not JSON"), ("[]", "line 3: no object")):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]) + text + "\n")
        with pytest.raises(RunError, match=words):
            load(path)
