"""The pacer against a step-by-step fluid, its conservation laws, and real processes that share it and die."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple, cast

import pytest
from dualpath.core.errors import ClusterError
from dualpath.engine.pacer import Lane, LinkState, Pacer, Reservation, wait_until
from hypothesis import given
from hypothesis import strategies as st

RATE = 200_000_000
NB = 1_000_000_000


class Arrival(NamedTuple):
    at_ns: int
    lane: Lane
    num_bytes: int


@pytest.fixture
def pacer() -> Iterator[Pacer]:
    with Pacer.create([RATE, 1_000_000_000, None]) as shared:
        yield shared


def ends_by_waiting(rate: int, arrivals: list[Arrival]) -> list[int]:
    """What `wait` does, on virtual time: every transfer asks again at each end it is told. Ends by arrival."""
    state = LinkState(rate)
    todo: list[tuple[int, int, int]] = []  # (ask at, transfer, its position)
    ends = [0] * len(arrivals)

    def ask_until(now_ns: int) -> None:
        while todo and todo[0][0] <= now_ns:
            told_ns, index, position = heapq.heappop(todo)
            state.advance(told_ns)
            later_ns = state.passed_ns(arrivals[index].lane, position)
            if later_ns <= state.at_ns:
                ends[index] = told_ns
            else:
                heapq.heappush(todo, (later_ns, index, position))

    for index, arrival in enumerate(arrivals):
        ask_until(arrival.at_ns)
        state.advance(arrival.at_ns)
        _, end_ns, position = state.accept(arrival.lane, arrival.num_bytes)
        heapq.heappush(todo, (end_ns, index, position))
    ask_until(1 << 62)
    return ends


def ends_by_steps(rate: int, arrivals: list[Arrival], step_ns: int) -> list[float]:
    """The naive model: at every step share the step's bytes between the lanes, 99:1 while both have work."""
    lanes: dict[str, list[list[float]]] = {"kv": [], "model": []}  # [transfer, bytes left], first in first out
    ends = [0.0] * len(arrivals)
    waiting, now_ns = list(enumerate(arrivals)), 0
    while waiting or lanes["kv"] or lanes["model"]:
        while waiting and waiting[0][1].at_ns <= now_ns:
            index, arrival = waiting.pop(0)
            lanes[arrival.lane].append([index, arrival.num_bytes])
        now_ns += step_ns
        room = rate * step_ns / 1e9
        shares = {"model": room * 0.99, "kv": room * 0.01}
        for lane, other in (("kv", "model"), ("model", "kv")):  # an empty lane leaves its share to the other
            if not lanes[other]:
                shares[lane] = room
        for lane, share in shares.items():
            while lanes[lane] and share > 0:
                part = min(share, lanes[lane][0][1])
                lanes[lane][0][1] -= part
                share -= part
                if lanes[lane][0][1] <= 1e-6:
                    ends[int(lanes[lane].pop(0)[0])] = now_ns
    return ends


def random_arrivals(seed: int, num_transfers: int) -> list[Arrival]:
    rng = random.Random(seed)
    mean_gap_ns = rng.choice([20_000, 100_000, 400_000])  # overloaded to mostly idle
    arrivals, now_ns = [], 0
    for _ in range(num_transfers):
        now_ns += int(rng.expovariate(1 / mean_gap_ns)) // 1000 * 1000
        lane = cast(Lane, rng.choice(["kv", "kv", "model"]))
        arrivals.append(Arrival(now_ns, lane, rng.choice([1, 500, 4096, 20_000, 65_536])))
    return arrivals


@pytest.mark.parametrize("seed", range(30))
def test_ends_are_those_of_a_step_by_step_fluid(seed: int) -> None:
    arrivals = random_arrivals(seed, 40)
    step_ns = 1000
    paced = ends_by_waiting(RATE, arrivals)
    stepped = ends_by_steps(RATE, arrivals, step_ns)
    # a step gives an emptied lane's rest away one step late, so each busy phase may cost the fluid one step
    for index, arrival in enumerate(arrivals):
        assert abs(paced[index] - stepped[index]) <= step_ns * (index + 2), arrival


@pytest.mark.parametrize("seed", range(30))
def test_no_more_passes_than_the_rate_allows_and_no_idling(seed: int) -> None:
    arrivals = random_arrivals(seed, 200)
    state = LinkState(RATE)
    for arrival in arrivals:
        served, at_ns = state.kv_served + state.model_served, state.at_ns
        waiting = state.kv_accepted + state.model_accepted - served
        state.advance(arrival.at_ns)
        gained = state.kv_served + state.model_served - served
        assert gained == min(waiting, RATE * (arrival.at_ns - at_ns))  # exactly: both bounds at once
        assert state.kv_served <= state.kv_accepted
        assert state.model_served <= state.model_accepted
        state.accept(arrival.lane, arrival.num_bytes)


@given(
    rate=st.integers(1_000_000, 50_000_000_000),
    sizes=st.lists(st.integers(0, 5_000_000), min_size=1, max_size=60),
    start_ns=st.integers(0, 2**60),
)
def test_a_busy_lane_never_drifts(rate: int, sizes: list[int], start_ns: int) -> None:
    state = LinkState(rate)
    total, last_ns = 0, start_ns
    for size in sizes:
        state.advance(last_ns)  # the next transfer is reserved just as the last one ends
        _, last_ns, _ = state.accept("kv", size)
        total += size
        exact = -(-total * NB // rate)
        assert exact <= last_ns - start_ns <= exact + len(sizes)  # a ceil per gap: under a ns each

    ahead = LinkState(rate)
    ahead.advance(start_ns)
    ends = [ahead.accept("kv", size)[1] for size in sizes]  # all reserved at once: no rounding accumulates
    assert ends[-1] - start_ns == -(-total * NB // rate)


def test_ten_hours_of_odd_sizes_stay_exact() -> None:
    state = LinkState(333_333_333)
    total = 0
    for size in range(100_000, 130_000):
        _, end_ns, _ = state.accept("kv", size * 10_007)
        total += size * 10_007
    assert end_ns == -(-total * NB // 333_333_333)
    assert end_ns > 10 * 3600 * NB
    state.advance(end_ns - 1)
    assert state.kv_served < state.kv_accepted
    state.advance(end_ns)
    assert state.kv_served == state.kv_accepted


@given(model=st.integers(1, 10**8), kv=st.integers(1, 10**8), steps=st.lists(st.integers(1, 10**7), max_size=20))
def test_ends_do_not_depend_on_when_one_looks(model: int, kv: int, steps: list[int]) -> None:
    state = LinkState(RATE)
    _, _, model_position = state.accept("model", model)
    _, kv_end_ns, kv_position = state.accept("kv", kv)
    model_end_ns = state.passed_ns("model", model_position)
    for step_ns in steps:
        state.advance(state.at_ns + step_ns)
        # rounding costs the KV lane at most one nanobyte a look, that is 100 nanobytes of the link's time
        if state.at_ns < model_end_ns:
            assert abs(state.passed_ns("model", model_position) - model_end_ns) <= 1 + len(steps)
        if state.at_ns < kv_end_ns:
            assert abs(state.passed_ns("kv", kv_position) - kv_end_ns) <= 1 + len(steps)


# lanes


def test_while_model_traffic_waits_kv_gets_one_percent() -> None:
    state = LinkState(RATE)
    state.accept("kv", 10**9)
    state.accept("model", 10**9)
    state.advance(NB)  # one second, both lanes still have work
    assert state.model_served == RATE * NB * 99 // 100
    assert state.kv_served == RATE * NB // 100


@pytest.mark.parametrize(("lane", "other"), [("kv", "model"), ("model", "kv")])
def test_an_idle_lane_leaves_the_whole_rate_to_the_other(lane: Lane, other: Lane) -> None:
    state = LinkState(RATE)
    state.accept(other, 1000)
    state.advance(NB)
    _, end_ns, _ = state.accept(lane, RATE)
    assert end_ns == 2 * NB


def test_model_traffic_is_not_held_up_by_kv_promised_before_it(pacer: Pacer) -> None:
    pacer.reserve(0, 10**9, "kv", 0)  # five seconds of the link
    late = pacer.reserve(0, 1_000_000, "model", 1000)
    assert late.start_ns == 1000
    assert late.end_ns - 1000 == -(-1_000_000 * NB * 100 // 99 // RATE)


def test_kv_that_was_promised_learns_that_model_traffic_passed_it(pacer: Pacer) -> None:
    kv = pacer.reserve(0, 2_000_000, "kv", 0)
    assert kv.end_ns == 10_000_000
    pacer.reserve(0, 1_000_000, "model", 1_000_000)
    assert pacer.passed_ns(kv, 10_000_000) == 15_000_000  # exactly the model's 5 ms later: no time is lost
    assert pacer.passed_ns(kv, 14_999_999) == 15_000_000
    assert pacer.passed_ns(kv, 15_000_000) == 15_000_000


def test_one_lane_is_first_in_first_out(pacer: Pacer) -> None:
    first = pacer.reserve(0, 200_000, "kv", 0)
    second = pacer.reserve(0, 400_000, "kv", 0)
    assert (first.start_ns, first.end_ns) == (0, 1_000_000)
    assert (second.start_ns, second.end_ns) == (1_000_000, 3_000_000)
    third = pacer.reserve(0, 200_000, "kv", 5_000_000)  # the link idled for 2 ms: they are gone
    assert (third.start_ns, third.end_ns) == (5_000_000, 6_000_000)
    assert pacer.passed_ns(second, 5_000_000) == 5_000_000


def test_a_clock_read_before_anothers_does_not_turn_time_back(pacer: Pacer) -> None:
    pacer.reserve(0, 200_000, "kv", 1_000_000)
    early = pacer.reserve(0, 200_000, "kv", 900_000)
    assert (early.start_ns, early.end_ns) == (2_000_000, 3_000_000)


# links


def test_a_native_link_takes_no_time(pacer: Pacer) -> None:
    free = pacer.reserve(2, 10**12, "kv", 77)
    assert (free.start_ns, free.end_ns) == (77, 77)
    assert pacer.passed_ns(free, 77) == 77
    assert (pacer.rate(2), pacer.busy_ns(2, 10**12)) == (None, 0)
    assert (pacer.rate(0), pacer.busy_ns(0, 200_000)) == (RATE, 1_000_000)


def test_links_do_not_disturb_each_other(pacer: Pacer) -> None:
    pacer.reserve(0, 10**9, "kv", 0)
    assert pacer.reserve(1, 1_000_000, "kv", 0).end_ns == 1_000_000


def test_a_transfer_over_several_links_ends_with_its_last(pacer: Pacer) -> None:
    pacer.reserve(1, 5_000_000, "kv", 0)
    several = pacer.reserve_all([2, 1, 0, 1], 200_000, "kv", 0)
    assert [(part.link, part.end_ns) for part in several] == [
        (2, 0),
        (1, 5_200_000),
        (0, 1_000_000),
        (1, 5_200_000),  # named twice, charged once
    ]
    assert pacer.state(1, 0).kv_accepted == 5_200_000 * NB


@pytest.mark.parametrize("rate", [0, -5.0, 0.5, float("nan"), float("inf")])
def test_an_impossible_rate_is_refused(rate: float) -> None:
    with pytest.raises(ClusterError, match=f"link 1: rate {rate}"):
        Pacer.create([None, rate])


def test_negative_bytes_are_a_mistake_of_ours(pacer: Pacer) -> None:
    with pytest.raises(ValueError, match="-1 bytes"):
        pacer.reserve(0, -1, "kv", 0)


# real time


def test_waiting_ends_after_the_virtual_end_and_returns_it(pacer: Pacer) -> None:
    now_ns = time.monotonic_ns()
    parts = [pacer.reserve(0, 100_000, "kv", now_ns) for _ in range(4)]
    assert pacer.wait(*parts) == parts[-1].end_ns == now_ns + 2_000_000
    assert time.monotonic_ns() >= parts[-1].end_ns


def test_waiting_includes_model_traffic_that_came_later(pacer: Pacer) -> None:
    now_ns = time.monotonic_ns()
    kv = pacer.reserve(0, 400_000, "kv", now_ns)
    pacer.reserve(0, 200_000, "model", now_ns)
    assert kv.end_ns == now_ns + 2_000_000
    assert pacer.wait(kv) == now_ns + 3_000_000
    assert time.monotonic_ns() >= now_ns + 3_000_000


def test_wait_until_the_past_returns() -> None:
    wait_until(0)


# threads and processes


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads that change over all the time, so that a missing lock shows."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def assert_fair_shares(parts: list[Reservation], rate: int) -> None:
    """One lane, several users: intervals do not overlap, and each is exactly its bytes long."""
    parts = sorted(parts, key=lambda part: part.position)
    for before, after in itertools.pairwise(parts):
        assert after.start_ns >= before.end_ns
        assert after.position - before.position == after.num_bytes * NB
    for part in parts:
        assert abs(part.end_ns - part.start_ns - part.num_bytes * NB / rate) <= 1


def test_threads_of_one_process_exclude_each_other(pacer: Pacer, eager_threads: None) -> None:
    parts: list[list[Reservation]] = [[] for _ in range(4)]

    def hammer(mine: list[Reservation]) -> None:
        for size in range(1, 300):
            mine.append(pacer.reserve(1, size, "kv", time.monotonic_ns()))

    threads = [threading.Thread(target=hammer, args=(mine,)) for mine in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pacer.state(1, 0).kv_accepted == 4 * sum(range(1, 300)) * NB
    assert_fair_shares([part for mine in parts for part in mine], 1_000_000_000)


WORKER = """\
import sys, time
from dualpath.engine.pacer import Pacer
pacer = Pacer.attach(int(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
parts = [pacer.reserve(1, 1000 + number, "kv", time.monotonic_ns()) for number in range(2000)]
ahead = []
for number in range(20):
    ahead.append(pacer.reserve(0, 50_000 + number, "kv", time.monotonic_ns()))
    parts.append(ahead[-1])
    if len(ahead) == 2:
        pacer.wait(ahead.pop(0))
for part in parts:
    print(part.link, part.num_bytes, part.start_ns, part.end_ns, part.position)
"""


def test_three_processes_together_keep_to_the_rate(pacer: Pacer) -> None:
    command = [sys.executable, "-c", WORKER, str(pacer.fileno())]
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(
                subprocess.Popen(
                    command,
                    pass_fds=[pacer.fileno()],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(3)
        ]
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        outputs = []
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        for worker in workers:
            outputs.append(worker.communicate(timeout=60)[0])
            assert worker.returncode == 0
    parts: dict[int, list[Reservation]] = {0: [], 1: []}
    for line in "".join(outputs).splitlines():
        link, num_bytes, start_ns, end_ns, position = map(int, line.split())
        parts[link].append(Reservation(link, "kv", num_bytes, start_ns, end_ns, position))
    assert (len(parts[0]), len(parts[1])) == (60, 6000)
    for link, taken in parts.items():
        rate = pacer.rate(link)
        assert rate is not None
        assert_fair_shares(taken, rate)
        total = sum(part.num_bytes for part in taken)
        first_ns, last_ns = min(part.start_ns for part in taken), max(part.end_ns for part in taken)
        assert total * NB <= rate * (last_ns - first_ns)
        assert pacer.state(link, 0).kv_accepted == total * NB


HOLDER = """\
import signal, sys, time
from dualpath.engine.pacer import Pacer

class HalfWrittenMemory:
    # memory that stops its process in the middle of the first write
    def __init__(self, memory):
        self.memory = memory
    def __getitem__(self, at):
        return self.memory[at]
    def __setitem__(self, at, value):
        middle = (at.start + at.stop) // 2
        self.memory[at.start : middle] = bytes(255 for _ in range(middle - at.start))
        print("held", flush=True)
        signal.pause()

pacer = Pacer.attach(int(sys.argv[1]))
pacer._memory = HalfWrittenMemory(pacer._memory)
pacer.reserve_all([0, 1], 1000, "kv", time.monotonic_ns())
"""

RESERVER = """\
import sys, time
from dualpath.engine.pacer import Pacer
pacer = Pacer.attach(int(sys.argv[1]))
print("started", flush=True)
while True:
    pacer.reserve_all([0, 1], 1000, "kv", time.monotonic_ns())
"""


def start_and_kill(program: str, pacer: Pacer, spins: int) -> None:
    """Runs a program on the pacer until it has printed a line and `spins` have passed, then kills it (SIGKILL)."""
    command = [sys.executable, "-c", program, str(pacer.fileno())]
    with subprocess.Popen(command, pass_fds=[pacer.fileno()], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        for _ in range(spins):
            pass
        os.kill(process.pid, signal.SIGKILL)


def reserve_within(pacer: Pacer, seconds: float) -> Reservation:
    """A reservation taken in a thread that may hang: a lock that is never released fails instead of blocking."""
    taken: list[Reservation] = []
    thread = threading.Thread(
        target=lambda: taken.append(pacer.reserve(0, 1000, "kv", time.monotonic_ns())), daemon=True
    )
    thread.start()
    thread.join(seconds)
    assert taken, "the link is still locked"
    return taken[0]


def test_a_process_killed_while_holding_blocks_nobody_and_changes_nothing(pacer: Pacer) -> None:
    pacer.reserve(0, 5000, "kv", time.monotonic_ns())
    start_and_kill(HOLDER, pacer, spins=0)
    taken = reserve_within(pacer, 10)
    assert taken.position == 6000 * NB


@pytest.mark.parametrize("seed", range(4))
def test_a_process_killed_while_reserving_leaves_whole_books(pacer: Pacer, seed: int) -> None:
    start_and_kill(RESERVER, pacer, spins=random.Random(seed).randint(0, 400_000))
    taken = reserve_within(pacer, 10)
    assert taken.position % (1000 * NB) == 0
    for link in (0, 1):
        state = pacer.state(link, time.monotonic_ns())
        assert state.kv_accepted % (1000 * NB) == 0
        assert 0 <= state.kv_served <= state.kv_accepted
        assert state.model_accepted == 0
