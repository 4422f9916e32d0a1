"""The scheduler's state: what it is made of, and how it grows."""

from __future__ import annotations

import books
from by_hand import carry, take_flight
from dualpath.core.arms import ARMS
from dualpath.core.queues import push
from dualpath.core.state import PREFILL, grow, new_state
from small_cluster import small_cluster


def test_a_new_state_is_idle_and_knows_its_cluster() -> None:
    cluster = small_cluster((2, 1), (1, 2), prefill_buffer=3, decode_buffer=4, prefill_hbm=5, decode_hbm=6)
    state = new_state(cluster, ARMS["basic"], 7)
    books.check_idle(state)
    assert len(state.flights) == 7
    assert state.engines["node"].tolist() == [0, 1, 2, 2]
    assert state.engines["buffer_blocks"].tolist() == [3, 3, 4, 4]
    assert state.engines["hbm_blocks"].tolist() == [5, 5, 6, 6]


def test_a_batch_holds_all_layers_of_its_requests_or_two() -> None:
    cluster = small_cluster(prefill_hbm=5)
    rooms = [new_state(cluster, ARMS[arm], 1).rules[0].pass_blocks for arm in ("basic", "layerwise")]
    assert rooms == [5, 7], "three layers of a request, or two, in room for 15"


def test_a_state_that_grows_keeps_what_is_in_it() -> None:
    state = new_state(small_cluster(), ARMS["dualpath"], 3)
    first, second = take_flight(state, 5), take_flight(state, 9)
    push(state.arrivals, PREFILL, state.after_prefill, first)
    push(state.arrivals, PREFILL, state.after_prefill, second)
    carry(state, 1, 40, requests=2)
    grow(state, 8)
    assert books.arrivals(state, PREFILL) == [first, second]
    assert state.flights["prompt_tokens"][[first, second]].tolist() == [5, 9]
    assert books.tokens(state) == [0, 40]
    taken = [take_flight(state, 1) for _ in range(6)]
    assert sorted([first, second, *taken]) == list(range(8))
    assert state.counts[0].num_free == 0
    books.check(state)
