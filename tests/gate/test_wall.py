from __future__ import annotations

from dualpath.gate.spec import Wall
from dualpath.gate.wall import judge, order


def _columns(
    base: list[float], candidate: list[float], again: list[float] | None = None
) -> dict[str, list[dict[str, float]]]:
    columns = {"base": base, "candidate": candidate, **({"again": again} if again else {})}
    return {column: [{"wall_s": each} for each in times] for column, times in columns.items()}


def _probe(**keys: object) -> Wall:
    return Wall(name="w", command="true", **keys)  # type: ignore[arg-type]


def test_sides_take_turns_and_each_pair_is_in_the_reverse_order_of_the_one_before() -> None:
    warm, timed = [(None, "base"), (None, "candidate")], list(order(["base", "candidate"], 3, warms_up=True))
    assert timed[:2] == warm
    assert "".join(column[0] for _, column in timed[2:]) == "bccbbc"
    assert [pair for pair, _ in timed[2:]] == [0, 0, 1, 1, 2, 2]
    three = list(order(["base", "candidate", "again"], 2, warms_up=True))
    assert three[:2] == warm
    assert [column for _, column in three[2:]] == ["base", "candidate", "again", "again", "candidate", "base"]
    assert list(order(["base", "candidate", "again"], 2, warms_up=False)) == three[2:]


def test_three_per_cent_are_too_much_and_one_is_not() -> None:
    base = [1.0, 1.01, 0.99, 1.0, 1.02, 1.0]
    (slower,) = judge(_probe(), _columns(base, [1.03 * each for each in base]))
    assert (slower.status, slower.tier, slower.name) == ("fail", 3, "w")
    assert slower.ratio is not None
    assert abs(slower.ratio - 1.03) < 1e-9
    assert "1.003 s in base, 1.033 s in candidate" in slower.why
    (as_fast,) = judge(_probe(), _columns(base, [1.01 * each for each in base]))
    assert (as_fast.status, as_fast.why) == ("pass", "")
    (faster,) = judge(_probe(), _columns(base, [0.5 * each for each in base]))
    assert faster.status == "pass"


def test_what_is_not_shown_to_be_within_the_limit_fails() -> None:
    """Non-inferiority: noise is no excuse, more pairs are."""
    (found,) = judge(_probe(), _columns([1.0, 1.2, 1.0, 1.2], [1.2, 1.0, 1.0, 1.25]))
    assert found.ratio is not None
    assert found.ratio < 1.02
    assert found.status == "fail"


def test_what_is_shown_to_be_below_the_floor_passes_whatever_its_ratio() -> None:
    times = _columns([0.010] * 4, [0.011] * 4)
    assert judge(_probe(floor_s=0.002), times)[0].status == "pass"
    assert judge(_probe(floor_s=0.0005), times)[0].status == "fail"
    noisy = _columns([5.0] * 4, [4.5, 5.5, 5.57, 4.5])  # on average the candidate takes less than the floor, or nothing
    assert judge(_probe(floor_s=0.02), noisy)[0].status == "fail"


def test_the_limit_is_widened_to_what_base_against_base_shows() -> None:
    base, noisy, quiet = [1.0] * 4, [1.03, 0.98, 1.02, 0.99], [1.0] * 4
    candidate = [1.025] * 4
    (widened,) = judge(_probe(), _columns(base, candidate, noisy))
    assert widened.status == "pass"
    assert "widened to" in widened.limit
    assert "base against base" in widened.why
    (kept,) = judge(_probe(), _columns(base, candidate, quiet))
    assert kept.status == "fail"
    assert "widened" not in kept.limit


def test_each_benchmark_is_judged_and_sides_must_have_the_same() -> None:
    base = [{"a": 1.0, "b": 2.0}] * 4
    slower = [{"a": 1.0, "b": 2.2}] * 4
    found = judge(_probe(measure="benchmarks"), {"base": base, "candidate": slower})
    assert [(each.name, each.status) for each in found] == [("w: a", "pass"), ("w: b", "fail")]
    (void,) = judge(_probe(measure="benchmarks"), {"base": base, "candidate": [*slower[:3], {"a": 1.0}]})
    assert (void.status, void.why) == ("void", "only one side has b")


def test_a_machine_that_is_noisier_than_twice_the_limit_cannot_judge() -> None:
    base, noisy = [1.0] * 4, [1.6, 1.0, 1.0, 1.0]
    (found,) = judge(_probe(limit=0.02), _columns(base, [1.1] * 4, noisy))
    assert found.status == "void"
    assert "too noisy to judge" in found.why


def test_what_is_no_time_is_void() -> None:
    for odd in (float("nan"), float("inf"), 0.0):
        (found,) = judge(_probe(), _columns([1.0] * 4, [1.0, odd, 1.0, 1.0]))
        assert found.status == "void"
        assert "which is no time" in found.why
