"""When trajectories start."""

from __future__ import annotations

from dataclasses import replace

import pytest
from dualpath.core.errors import TraceError
from dualpath.core.trajectory import Trajectory, Turn
from dualpath.trace import starts
from dualpath.trace.starts import Workload


def family(name: str, arrival_ns: int | None = None) -> list[Trajectory]:
    turns = (Turn(100, 10, arrival_ns=arrival_ns), Turn(20, 5))
    return [Trajectory(name, turns), Trajectory(f"{name}/sub", turns[:1], name, 0)]


def test_offline_all_start_together() -> None:
    assert [start.arrival_ns for start in starts.offline([family("a"), family("b")])] == [0, 0]


def test_online_is_poisson_seeded_and_the_same_for_every_arm() -> None:
    many = [family(str(number)) for number in range(4000)]
    times_ns = [start.arrival_ns for start in starts.online(many, 20.0, seed=3)]
    assert times_ns == [start.arrival_ns for start in starts.online(many, 20.0, seed=3)]
    assert times_ns != [start.arrival_ns for start in starts.online(many, 20.0, seed=4)]
    gaps_s = [(b - a) / 1e9 for a, b in zip([0, *times_ns], times_ns, strict=False)]
    assert min(gaps_s) >= 0
    mean_s = sum(gaps_s) / len(gaps_s)
    assert mean_s == pytest.approx(1 / 20, rel=0.05)
    variance = sum((gap_s - mean_s) ** 2 for gap_s in gaps_s) / len(gaps_s)
    assert variance**0.5 == pytest.approx(mean_s, rel=0.1), "exponential: standard deviation = mean"


def test_a_workload_tells_turns_of_one_token_apart() -> None:
    edited = replace(family("a")[0], turns=(Turn(100, 1), Turn(20, 2), Turn(20, 1)))
    found = Workload.of(starts.offline([[edited], [edited]]))
    assert (found.turns, found.turns_of_several_tokens) == (6, 2)


def test_recorded_counts_from_the_first_arrival() -> None:
    found = list(starts.recorded([family("a", 1000), family("b", 1000), family("c", 1500)]))
    assert [start.arrival_ns for start in found] == [0, 0, 500]


def test_recorded_refuses_what_it_cannot_replay() -> None:
    with pytest.raises(TraceError, match="'b' has no arrival_ns"):
        list(starts.recorded([family("a", 5), family("b")]))
    with pytest.raises(TraceError, match=r"'b' has arrival_ns 4, before 5 .* sort the trace"):
        list(starts.recorded([family("a", 5), family("b", 4)]))


def test_a_workload_counts_sub_agents_too() -> None:
    edited = replace(family("b")[0], turns=(Turn(100, 10), Turn(20, 5, keep_tokens=30)))
    found = Workload.of(starts.offline([family("a"), [edited]]))
    assert found == Workload(
        roots=2,
        trajectories=3,
        turns=5,
        turns_of_several_tokens=5,
        new_tokens=135 + 110 + 135,
        largest_prompt_tokens=130,
        largest_total_tokens=135,
    )
