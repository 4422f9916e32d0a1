"""Read side policies."""

from __future__ import annotations

import pytest
from dualpath.core.arms import ARMS, Arm
from dualpath.core.commands import Assigned
from dualpath.core.events import Request, TurnDue
from dualpath.core.hops import HOPS, Stage
from dualpath.core.routes import choose, prefill_only, round_robin, shorter_queue, split
from dualpath.core.scheduler import Scheduler
from dualpath.core.state import READ_SIDES
from hypothesis import given, settings
from hypothesis import strategies as st
from small_cluster import BLOCK_TOKENS, small_cluster

BLOCKS = st.integers(0, 200)
POLICIES = {
    "prefill-only": prefill_only,
    "round-robin": round_robin,
    "shorter-queue": shorter_queue,
    "split": split,
}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(BLOCKS, BLOCKS, BLOCKS, st.integers(0, 9))
def test_every_policy_reads_each_block_on_exactly_one_side(hit: int, prefill: int, decode: int, turn: int) -> None:
    for policy in POLICIES.values():
        assert 0 <= policy(hit, prefill, decode, turn) <= hit


@settings(max_examples=100, deadline=None, derandomize=True)
@given(BLOCKS, BLOCKS, BLOCKS, st.integers(0, 9))
def test_each_policy_has_its_number(hit: int, prefill: int, decode: int, turn: int) -> None:
    for name, policy in POLICIES.items():
        assert choose(READ_SIDES.index(name), hit, prefill, decode, turn) == policy(hit, prefill, decode, turn)


@pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS)
def test_an_arms_requests_are_read_by_its_policy(arm: Arm) -> None:
    """Nothing is ever read here, so queues only grow: on the first request both are empty."""
    scheduler = Scheduler(small_cluster(), arm)
    for number in range(5):
        commands = scheduler.handle(TurnDue(0, Request(number, number, 0, 40, 1, 9)))
        (assigned,) = (command for command in commands if isinstance(command, Assigned))
        queues = assigned.prefill_queue_tokens // BLOCK_TOKENS, assigned.decode_queue_tokens // BLOCK_TOKENS
        assert sum(queues) == 9 * number
        assert assigned.prefill_blocks == POLICIES[arm.read_side](9, *queues, number)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(BLOCKS, BLOCKS, BLOCKS)
def test_split_ends_as_early_as_any_division(hit: int, prefill: int, decode: int) -> None:
    """Brute force over all divisions; of two equally good ones, the prefill side reads more."""

    def done(on_prefill: int) -> tuple[int, int]:
        ends = [prefill + on_prefill] * (on_prefill > 0) + [decode + hit - on_prefill] * (on_prefill < hit)
        return (max(ends, default=0), -on_prefill)

    assert split(hit, prefill, decode, 0) == -min(done(x) for x in range(hit + 1))[1]


@pytest.mark.parametrize(("prefill", "decode", "on_prefill"), [(0, 0, 0), (4, 4, 0), (4, 5, 9), (5, 4, 0)])
def test_shorter_queue_takes_one_side_and_ties_go_to_the_decode_side(
    prefill: int, decode: int, on_prefill: int
) -> None:
    assert shorter_queue(9, prefill, decode, 3) == on_prefill


def test_the_decode_route_is_the_lighter_one_so_ties_may_go_there() -> None:
    """Compute-NIC hops of hit KV until it is in the DE buffer, from the hop table."""

    def crossings(*stages: Stage) -> int:
        return sum(hop.resource == "cnic" for stage in stages for hop in HOPS[stage])

    assert crossings("load-decode") == 2
    assert crossings("load-prefill", "forward") == 4


def test_prefill_only_ignores_queues() -> None:
    assert prefill_only(9, 10**9, 0, 1) == 9


def test_round_robin_alternates_and_ignores_queues() -> None:
    assert [round_robin(9, 10**9, 0, turn) for turn in range(4)] == [9, 0, 9, 0]


def test_round_robin_alternates_sides_over_requests_with_a_hit() -> None:
    scheduler = Scheduler(small_cluster(), ARMS["dualpath-rr"])
    routes: list[tuple[int, int]] = []
    for number, hit_blocks in enumerate([2, 0, 2, 0, 2]):
        commands = scheduler.handle(TurnDue(0, Request(number, number, 0, 10, 1, hit_blocks)))
        routes += [(c.prefill_blocks, c.decode_blocks) for c in commands if isinstance(c, Assigned)]
    assert routes == [(2, 0), (0, 0), (0, 2), (0, 0), (2, 0)]


@pytest.mark.parametrize(("prefill", "decode"), [(1, 1), (1, 2), (2, 1), (2, 2), (2, 4)])
def test_round_robin_reads_on_every_node(prefill: int, decode: int) -> None:
    """Half of the blocks on each side, shared equally by its nodes: alternation must not fall into step with
    placement."""
    cluster = small_cluster((prefill, 1), (decode, 1))
    scheduler = Scheduler(cluster, ARMS["dualpath-rr"])
    read = [0] * cluster.num_nodes
    for number in range(32):
        for command in scheduler.handle(TurnDue(0, Request(number, number, 0, 10, 1, 2))):
            if isinstance(command, Assigned):
                read[cluster.node_of(command.prefill_engine)] += command.prefill_blocks
                read[cluster.node_of(command.decode_engine)] += command.decode_blocks
    assert read == [32 // prefill] * prefill + [32 // decode] * decode
