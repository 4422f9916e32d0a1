"""Two lanes of a link: the engine's pacer is the model, from whose exact books the simulator may differ by what its
promises cannot take back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from dualpath.cluster_file import load_cluster
from dualpath.engine.pacer import LinkState
from dualpath.sim.links import CNIC, MODEL_TRAFFIC, ROUTE_MISS, Links, new_links, serve
from hypothesis import given
from hypothesis import strategies as st

RATE = 1_000_000_000  # bytes per second: one byte takes a ns


@pytest.fixture
def links() -> Links:
    return fresh_links()


def fresh_links() -> Links:
    cluster = load_cluster(Path(__file__).parents[2] / "bench" / "clusters" / "cpu-1p1d.toml").cluster
    return new_links(dataclasses.replace(cluster, cnic_bytes_per_s=RATE), 1e9, 0.0, 100_000_000)


def carry(links: Links, route: int, num_bytes: int, at_ns: int) -> int:
    return serve(links, CNIC, 0, 0, 0, route, num_bytes, 0.0, at_ns)


def test_alone_either_lane_has_the_whole_rate(links: Links) -> None:
    assert carry(links, ROUTE_MISS, 5_000, 0) == 5_000
    assert carry(links, MODEL_TRAFFIC, 5_000, 10_000) == 15_000


def test_model_traffic_does_not_wait_for_kv_but_gives_it_a_hundredth(links: Links) -> None:
    carry(links, ROUTE_MISS, 1_000_000, 0)
    assert carry(links, MODEL_TRAFFIC, 9_900, 0) == 10_000
    assert carry(links, ROUTE_MISS, 100, 0) == 1_000_000 + 9_900 + 100, "KV waits for what the other lane has taken"


def test_kv_beside_much_model_traffic_crawls_and_is_not_starved(links: Links) -> None:
    carry(links, MODEL_TRAFFIC, 10_000_000, 0)
    assert carry(links, ROUTE_MISS, 100, 0) == 10_000
    assert carry(links, ROUTE_MISS, 100, 0) == 20_000


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 100_000), st.integers(0, 200_000)), min_size=1, max_size=30),
)
def test_model_traffic_ends_when_the_pacer_says(transfers: list[tuple[bool, int, int]]) -> None:
    """Of both lanes, in any order: within the hundredth of the rate that the lanes cede to each other. When KV will
    pass is promised to within the model traffic there was: what comes between is booked whole, not by the hundredth."""
    links, state, at_ns, given_bytes, model_bytes = fresh_links(), LinkState(RATE), 0, 0, 0
    for is_model, num_bytes, gap_ns in transfers:
        at_ns += gap_ns
        given_bytes += num_bytes
        state.advance(at_ns)
        _, exact_ns, _ = state.accept("model" if is_model else "kv", num_bytes)
        found_ns = carry(links, MODEL_TRAFFIC if is_model else ROUTE_MISS, num_bytes, at_ns)
        model_bytes += num_bytes if is_model else 0
        slack_ns = 0.02 * given_bytes + 2 * len(transfers) + (0 if is_model else model_bytes)
        assert abs(found_ns - exact_ns) <= slack_ns
