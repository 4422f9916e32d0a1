"""Engines that share cores and memory: off by default, and what is added where it is on."""

from __future__ import annotations

from pathlib import Path

import pytest
from dualpath.cluster_file import load_cluster
from dualpath.core.arms import ARMS
from dualpath.core.feed import Feed
from dualpath.sim.parts import Parts, new_parts
from dualpath.sim.profile import Constant, profile_of
from dualpath.sim.sharing import price_steps, shared_pass_ns

CLUSTERS = Path(__file__).resolve().parents[2] / "bench" / "clusters"
NAMES = (
    "pass_ms",
    "prefill_us_per_token",
    "attention_us_per_context",
    "attention_ns_per_pair",
    "prompt_tokens_per_s",
    "step_ms",
    "step_us_per_request",
    "step_ns_per_context",
    "step_engines",
)


def parts_of(cluster: str = "cpu-2p1d", **constants: float) -> Parts:
    """At 1 s, when nobody is at work. A step costs 1 ms and 1 us per request."""
    values = {**dict.fromkeys(NAMES, 1.0), "step_ns_per_context": 0.0, **constants}
    profile = profile_of({name: Constant(value, "test") for name, value in values.items()}, "test")
    feed = Feed([])
    whole = load_cluster(CLUSTERS / f"{cluster}.toml").cluster
    parts = new_parts(whole, ARMS["layerwise"], profile, feed.agents, feed.turns.rows, 1_000_000, keep_log=False)
    parts.counts[0].now_ns = 10**9
    return parts


def test_nothing_is_added_unless_the_profile_says_so() -> None:
    parts = parts_of()
    parts.pass_free_ns[:] = 2 * 10**9
    parts.decode.requests[:] = 5
    before = parts.decode.costs_ps.copy()
    price_steps(parts, 0)
    assert shared_pass_ns(parts, 0, 10_000, 12_345) == 12_345
    assert (parts.decode.costs_ps == before).all()


@pytest.mark.parametrize(
    ("cores", "other_pass", "requests", "slower"),
    [(2.0, False, 0, 1.0), (2.0, True, 0, 1.0), (2.0, True, 3, 1.5), (1.0, True, 3, 3.0), (1.0, False, 3, 2.0)],
)
def test_a_pass_shares_the_cores_with_who_is_at_work(
    cores: float, other_pass: bool, requests: int, slower: float
) -> None:
    parts = parts_of(cores=cores)
    parts.pass_free_ns[0] = 2 * 10**9  # its own pass before: it waits for that, and does not compute beside it
    parts.pass_free_ns[1] = 10**9 + other_pass
    parts.decode.requests[0] = requests
    assert shared_pass_ns(parts, 0, 100, 1_000_000) == int(1_000_000 * slower)


def test_steps_share_the_cores_each_group_for_itself() -> None:
    parts = parts_of("cpu-1p2d", cores=2.0)
    parts.pass_free_ns[0] = 2 * 10**9
    parts.decode.requests[:] = 1, 1
    price_steps(parts, 1)
    assert parts.decode.costs_ps.tolist() == [[10**9, 10**6, 0], [3 * 10**9 // 2, 3 * 10**6 // 2, 0]]
    parts.pass_free_ns[0] = 0
    price_steps(parts, 1)
    assert parts.decode.costs_ps.tolist() == [[10**9, 10**6, 0], [10**9, 10**6, 0]]


def test_only_what_is_larger_than_before_on_its_engine_is_cold() -> None:
    parts = parts_of(cold_us_per_token=2.0)
    took_ns = [shared_pass_ns(parts, 0, new_tokens, 1_000) for new_tokens in (100, 40, 100, 130)]
    assert took_ns == [201_000, 1_000, 1_000, 61_000]
    assert shared_pass_ns(parts, 1, 10, 1_000) == 21_000
