"""What a search says of itself."""

from __future__ import annotations

import json

import pytest
from dualpath.report.search import as_value, probes_table, sentences
from dualpath.results.searched import Probe, Row, Searched
from dualpath.results.slo import parse_slo

RATES = (1.0, 2.0, 4.0, 8.0)
SLO = parse_slo("ttft=4s,tpot_p99=50ms")


def row(arm: str, repeat: int, place: int, met: bool, stop: str) -> Row:
    latencies = {"ttft_ns": 3e9 + 1e8 * repeat if met else 5e9, "tpot_p99_ns": None}
    return {"arm": arm, "repeat": repeat, "rate_per_s": RATES[place], "met": met, "stop": stop, **latencies}


def searched(kept: dict[str, list[str]], stop: str = "steady", **more: object) -> Searched:
    """kept: by arm and repeat, y or n for each rate, - where it was not tried."""
    rows = {
        Probe(arm, repeat, place): row(arm, repeat, place, word == "y", stop if word == "y" else "overloaded")
        for arm, words in kept.items()
        for repeat, word_of in enumerate(words)
        for place, word in enumerate(word_of)
        if word != "-"
    }
    return Searched(tuple(kept), len(next(iter(kept.values()))), RATES, SLO, "rule", rows, **more)  # type: ignore[arg-type]


def test_one_line_per_arm_says_the_answer() -> None:
    found = searched(
        {"basic": ["ynnn", "yynn", "ynnn"], "oracle": ["y--y"] * 3, "split": ["nn-n"] * 3, "dualpath": ["y--n"] * 3}
    )
    assert sentences(found)[-4:] == [
        "largest rate that meets ttft ≤ 4 s, tpot_p99 ≤ 50 ms: 1 agents/s [1, 4] (basic)",
        "always meets ttft ≤ 4 s, tpot_p99 ≤ 50 ms: even at 8 agents/s [8, above 8] (oracle)",
        "never meets ttft ≤ 4 s, tpot_p99 ≤ 50 ms: not even at 1 agents/s [below 1, 1] (split)",
        "dualpath: not known yet",
    ]
    value = json.loads(json.dumps(as_value(found), allow_nan=False))
    assert value["arms"]["basic"]["level"] == 0.75
    assert (value["arms"]["split"]["rate_per_s"], value["arms"]["oracle"]["fails_at_per_s"]) == (None, None)
    assert (value["arms"]["dualpath"], value["is_complete"]) == (None, False)
    cells = probes_table(found).rows[1]
    assert cells == ("basic", "2", "1 of 3", "5,000 (3,100–5,000)", "–", "overloaded 2, steady 1")


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (searched({"basic": ["ynyn"]}), "basic: repeat 0 meets the SLO again at 4 agents/s"),
        (searched({"basic": ["yynn"]}, stop="arrivals ended"), "in 1 of 1 runs that meet the SLO at 2 agents/s"),
        (searched({"basic": ["yynn"]}), "That is no interval: other seeds would find other rates"),
        (searched({"basic": ["yynn"] * 5}), "is within the brackets in 93.8% of searches with 5 repeats"),
        (
            searched({"basic": ["yynn"] * 4}),
            "more than half of 4 repeats do (of an even number, that is the lower median)",
        ),
        (searched({"basic": ["y--n"]}, void=("RUN: killed",)), "void, decides nothing: RUN: killed"),
    ],
)
def test_what_makes_an_answer_less_than_it_seems_is_said(found: Searched, says: str) -> None:
    assert [line for line in sentences(found) if says in line]
