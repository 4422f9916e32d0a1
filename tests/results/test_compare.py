from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dualpath.core.errors import RunError
from dualpath.results.compare import Comparison, compare
from dualpath.results.latencies import LatencyName
from dualpath.results.run import Run
from synthetic import S, turn, write_run


def _run(directory: Path, ends_s: dict[str, float], **manifest: Any) -> Run:
    rows = [turn(name, 0, 0, int(end * S)) for name, end in ends_s.items()]
    return Run.load(write_run(directory, rows, **manifest))


def _difference_s(found: Comparison, name: LatencyName) -> float:
    difference = found.latency_differences_s[name]
    assert difference is not None
    return difference.value


def test_by_hand(tmp_path: Path) -> None:
    a = _run(tmp_path / "a", {"x": 8, "y": 4})
    b = _run(tmp_path / "b", {"x": 4, "y": 4})
    found = compare(a, b)
    assert found.speed_up.value == 2.0
    assert found.trajectory_jct_difference_s.value == -2.0
    assert _difference_s(found, "ttft") == -1.5  # first tokens come after 6/8 of a turn
    assert found.trajectories == 2
    assert (found.speed_up.low, found.speed_up.high) == (2.0, 2.0)  # one repeat has no range
    assert found.trajectory_speed_up.value == 1.5
    assert not found.trajectory_speed_up.is_known  # of two trajectories
    assert not found.trajectory_jct_difference_s.is_known


def test_an_interval_needs_six_trajectories(tmp_path: Path) -> None:
    """x is twice as fast in B, the others are not: drawn often enough, or not at all, x decides on the ends."""
    for others in (4, 5):
        names = [f"y{index}" for index in range(others)]
        a = _run(tmp_path / f"a{others}", {"x": 8, **dict.fromkeys(names, 8)})
        b = _run(tmp_path / f"b{others}", {"x": 4, **dict.fromkeys(names, 8)})
        found = compare(a, b)
        assert found.trajectory_speed_up.is_known == found.trajectory_jct_difference_s.is_known == (others == 5)
    assert found.trajectory_speed_up.low == 1.0
    assert found.trajectory_speed_up.high in {6 / (6 - each / 2) for each in range(2, 7)}, "a sample, as it is"


def test_how_many_trajectories_have_a_latency_is_told(tmp_path: Path) -> None:
    rows = [turn(f"t{index}", 0, 0, S, generate_tokens=3 if index < 2 else 1) for index in range(7)]
    a, b = (Run.load(write_run(tmp_path / name, rows)) for name in "ab")
    assert compare(a, b).latency_trajectories == {"ttft": 7, "ttst": 2, "tpot": 2, "turn_latency": 7}


def test_the_interval_is_seeded(tmp_path: Path) -> None:
    a = _run(tmp_path / "a", {f"t{i}": 8 + i % 7 + i / 50 for i in range(40)})
    b = _run(tmp_path / "b", {f"t{i}": 5 + i % 5 + i / 50 for i in range(40)})
    first, again, other = compare(a, b), compare(a, b), compare(a, b, seed=1)
    assert first == again
    assert other.trajectory_jct_difference_s != first.trajectory_jct_difference_s
    difference = first.trajectory_jct_difference_s
    assert difference.low < difference.value < difference.high


def test_an_equal_pair_has_no_width(tmp_path: Path) -> None:
    a = _run(tmp_path / "a", {"x": 8, "y": 4})
    found = compare(a, a)
    assert (found.speed_up.low, found.speed_up.value, found.speed_up.high) == (1.0, 1.0, 1.0)


def test_repeats_are_paired_by_number_or_drawn_apart(tmp_path: Path) -> None:
    slow = [_run(tmp_path / f"a{k}", {"x": end}, repeat=k) for k, end in enumerate((8, 16))]
    fast = [_run(tmp_path / f"b{k}", {"x": end}, repeat=k) for k, end in enumerate((4, 8))]
    paired = compare(slow, fast)
    assert paired.is_paired_by_repeat
    assert (paired.speed_up.low, paired.speed_up.value, paired.speed_up.high) == (2.0, 2.0, 2.0)
    apart = compare(slow, [_run(tmp_path / "c", {"x": 6}, repeat=5)])
    assert not apart.is_paired_by_repeat
    assert apart.speed_up.value == 2.0
    assert (apart.speed_up.low, apart.speed_up.high) == (8 / 6, 16 / 6)


def test_the_same_twice_is_not_told_apart_from_itself(tmp_path: Path) -> None:
    """A against A with a little noise: the interval of the means contains 1, whichever trajectory is last."""
    a = _run(tmp_path / "a", {f"t{i}": 10 + i % 5 for i in range(40)})
    b = _run(tmp_path / "b", {f"t{i}": 10 + i % 5 + (0.05 if i % 2 else -0.05) for i in range(40)})
    found = compare(a, b).trajectory_speed_up
    assert found.low < 1 < found.high


def test_differences_weigh_every_turn(tmp_path: Path) -> None:
    def rows(last_s: int) -> list[dict[str, Any]]:
        return [turn("x", 0, 0, 8 * S), turn("x", 1, 8 * S, 16 * S), turn("y", 0, 0, last_s * S)]

    a = Run.load(write_run(tmp_path / "a", rows(16)))
    b = Run.load(write_run(tmp_path / "b", rows(8)))
    found = compare(a, b)
    assert _difference_s(found, "ttft") == pytest.approx(-2.0)  # 6 s less on one of three turns
    assert found.trajectory_jct_difference_s.value == -4.0


def test_turns_of_one_token_have_no_difference_of_later_tokens(tmp_path: Path) -> None:
    def rows(first_s: int) -> list[dict[str, Any]]:
        return [turn("x", 0, 0, first_s * S, generate_tokens=1), turn("y", 0, 0, 8 * S, generate_tokens=1)]

    a, b = (Run.load(write_run(tmp_path / name, rows(first_s))) for name, first_s in (("a", 8), ("b", 4)))
    found = compare(a, b)
    assert (found.latency_differences_s["ttst"], found.latency_differences_s["tpot"]) == (None, None)
    more_a, more_b = (
        Run.load(write_run(tmp_path / f"{name}2", [*rows(8), turn("z", 0, 0, end_s * S)]))
        for name, end_s in (("a", 16), ("b", 8))
    )
    assert (
        _difference_s(compare(more_a, more_b), "ttst") == -1.0
    )  # one of 8 parts of the turn, over one turn, not three
    assert _difference_s(compare(more_a, more_b), "turn_latency") == pytest.approx(-8 / 3)


def test_unlike_work_is_refused(tmp_path: Path) -> None:
    a = _run(tmp_path / "a", {"x": 8, "y": 4})
    with pytest.raises(RunError, match=r"1 trajectories are in one only, the first is 'z'"):
        compare(a, _run(tmp_path / "b", {"x": 8, "y": 4, "z": 1}))
    more = Run.load(write_run(tmp_path / "c", [turn("x", 0, 0, S), turn("x", 1, S, 2 * S), turn("y", 0, 0, S)]))
    with pytest.raises(RunError, match=r"'x' has 1 turns in one and 2 in the other"):
        compare(a, more)
    with pytest.raises(RunError, match="nothing to compare"):
        compare([], a)


@pytest.mark.parametrize(
    ("key", "manifest"),
    [
        ("scale", {"trace": {"scale": "1/2"}}),
        ("sha256", {"trace": {"sha256": "cd" * 32}}),
        ("max_len", {"trace": {"max_len": 500}}),
        ("backend", {"backend": "null"}),
        ("seed", {"seed": 9}),
        ("gap_scale", {"feed": {"gap_scale": 1.0}}),
        ("append_factor", {"selection": {"append_factor": "1/2"}}),
    ],
)
def test_another_workload_is_refused(tmp_path: Path, key: str, manifest: dict[str, Any]) -> None:
    a = _run(tmp_path / "a", {"x": 8})
    with pytest.raises(RunError, match=f"not the same work: {key} is"):
        compare(a, _run(tmp_path / "b", {"x": 8}, **manifest))


def test_void_runs_are_refused(tmp_path: Path) -> None:
    a = _run(tmp_path / "a", {"x": 8})
    with pytest.raises(RunError, match=r"the run is void \(PE0 died\)"):
        compare(a, _run(tmp_path / "b", {"x": 8}, status="void", reasons=["PE0 died"]))
