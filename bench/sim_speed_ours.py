"""One measurement of the simulator, in this process: sim_speed.py starts a fresh one for each.

whole       a whole call of `simulate`: trace read, tables written
loop        the event loop alone: trajectories are taken in before the clock starts, finished rows are dropped
pending     how many events are pending, on average over simulated time (nothing is timed)
heap        the event queue alone, of as many events with as many pending
scheduler   core/steps.py alone: events of a simulated run, recorded first, told to a fresh scheduler

The last line of stdout is one JSON object. Example:

    python bench/sim_speed_ours.py loop --cluster bench/clusters/paper-ds660b-2p4d.toml \\
        --trace traces/agents-64k.parquet --agents 64
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from dualpath.core import steps
from dualpath.core.answers import ASSIGNED, PREFILL_BATCH
from dualpath.core.arms import ARMS
from dualpath.core.compiled import compiled
from dualpath.core.errors import DualpathError
from dualpath.core.feed import Feed
from dualpath.core.heap import Heap, new_heap, put, take
from dualpath.core.least import NEVER
from dualpath.core.records import Integers
from dualpath.core.state import State, new_state
from dualpath.plan import Plan, starts_of
from dualpath.sim.machine import COMPUTED, DUE, ENDED, FREED, READ_DONE, REPORTED, SENT
from dualpath.sim.simulator import Simulator, Sinks
from dualpath.simulate import simulate, simulated_cluster
from dualpath.trace.reader import TraceFile
from dualpath.trace.starts import Workload

Result = dict[str, object]
_SAMPLE_NS = 20 * 10**9  # of simulated time
_BATCHES, _ASSIGNED, _COMMANDS = range(3)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=MEASUREMENTS)
    parser.add_argument("--cluster", type=Path, help="all but heap")
    parser.add_argument("--trace", type=Path, help="all but heap")
    parser.add_argument("--agents", type=int, help="default: all of the trace's")
    parser.add_argument("--rate", type=float, help="online: agents per second")
    parser.add_argument("--events", type=int, default=1_000_000, help="heap, scheduler: at most so many")
    parser.add_argument("--pending", type=int, default=4096, help="heap")
    options = parser.parse_args()
    if options.kind != "heap" and None in (options.cluster, options.trace):
        parser.error(f"{options.kind} needs --cluster and --trace")
    try:
        result = MEASUREMENTS[options.kind](options)
    except DualpathError as error:
        print(error, file=sys.stderr)
        return 3
    result["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(result))
    return 0


def whole(options: argparse.Namespace) -> Result:
    with tempfile.TemporaryDirectory(prefix="run-") as folder:
        plan = _plan(options, Path(folder) / "run")
        with _clock() as spent:
            outcome = simulate(plan, lambda done, total: None)
        if outcome.status != "ok":
            raise DualpathError(f"the run is void: {', '.join(outcome.reasons)}")
        facts = json.loads((plan.output / "run.json").read_text())
        table_bytes = sum(path.stat().st_size for path in plan.output.glob("*.parquet"))
    return {
        **spent,
        "turns": outcome.turns,
        "events": facts["simulated"]["events"],
        "jct_s": outcome.jct_s,
        "table_bytes": table_bytes,
    }


def loop(options: argparse.Namespace) -> Result:
    turns = 0

    def count(rows: np.ndarray, feed: Feed) -> None:
        nonlocal turns
        turns += len(rows)

    with _simulator(options, Sinks(count, _drop, None)) as (simulator, feed):
        while feed.next_arrival_ns is not None:  # offline: all of them arrive before anything happens
            simulator.run_slice()
        assert simulator.now_ns == 0, "trajectories that arrive later are part of the loop: measure offline runs"
        with _clock() as spent:
            while simulator.run_slice():
                pass
        engines = len(simulator.parts.state.engines)
        return {**spent, "turns": turns, "events": int(simulator.parts.counts[0].events), "engines": engines}


def pending(options: argparse.Namespace) -> Result:
    samples: list[int] = []
    with _simulator(options, Sinks(_drop, _drop, None)) as (simulator, feed):
        while not feed.finished:
            while simulator.run_slice((len(samples) + 1) * _SAMPLE_NS):
                pass
            parts = simulator.parts
            groups = int(np.count_nonzero(parts.timers.values < NEVER))
            samples.append(int(parts.events.size[0]) + int(parts.agents.due.size[0]) + groups)
        events = int(simulator.parts.counts[0].events)
    return {"pending": round(sum(samples) / len(samples)), "most_pending": max(samples), "events": events}


def heap(options: argparse.Namespace) -> Result:
    queue = new_heap(options.pending + 1)
    _spin(queue, options.pending, 10)
    with _clock() as spent:
        _spin(queue, 0, options.events)
    return {**spent, "events": options.events, "pending": options.pending}


def scheduler(options: argparse.Namespace) -> Result:
    """The second half of the events is timed: the first brings the cluster under load."""
    taken: list[Integers] = []
    with _simulator(options, Sinks(_drop, _drop, lambda rows: taken.append(rows.copy()))) as (simulator, _):
        while sum(map(len, taken)) < options.events and simulator.run_slice():
            pass
        simulator.hand_out()
        log = np.concatenate(taken)
        plan = _plan(options, Path("unused"))
        cluster, _, _ = simulated_cluster(plan)
        with TraceFile.open(plan.trace) as trace:
            workload = Workload.of(starts_of(plan, trace))
        state = new_state(cluster, ARMS["dualpath"], len(simulator.parts.state.flights))
        wanted = simulator.parts.state
        flights, firsts = np.full(len(log), -1), np.full(len(log), -1)
        counts = np.zeros(3, np.int64)
        half = len(log) // 2
        _tell(state, log, 0, half, flights, firsts, counts)
        before = counts.copy()
        with _clock() as spent:
            _tell(state, log, half, len(log), flights, firsts, counts)
        same = np.array_equal(state.engines, wanted.engines) and np.array_equal(state.nodes, wanted.nodes)
        assert same, "the scheduler alone ended elsewhere than in the simulation"
    told, timed = counts - before, log[half:]
    return {
        **spent,
        "engines": cluster.num_engines,
        "events": len(timed),
        "turns": int(np.count_nonzero(timed[:, 1] == ENDED)),
        "assigned": int(told[_ASSIGNED]),
        "commands": int(told[_COMMANDS]),
        "simulated_s": int(timed[-1, 0] - timed[0, 0]) / 1e9,
        "rate_per_s": options.rate,
        "turns_per_agent": workload.turns / workload.roots,
        "live_requests": len(state.flights) - int(state.counts[0].num_free),
    }


MEASUREMENTS: dict[str, Callable[[argparse.Namespace], Result]] = {
    "whole": whole,
    "loop": loop,
    "pending": pending,
    "heap": heap,
    "scheduler": scheduler,
}


def _plan(options: argparse.Namespace, output: Path) -> Plan:
    return Plan(
        options.trace,
        options.cluster,
        "dualpath",
        output,
        backend="sim",
        agents=options.agents,
        mode="offline" if options.rate is None else "online",
        rate_per_s=options.rate,
    )


@contextmanager
def _simulator(options: argparse.Namespace, sinks: Sinks) -> Iterator[tuple[Simulator, Feed]]:
    """As simulate.py makes one, with other sinks."""
    plan = _plan(options, Path("unused"))
    cluster, profile, _ = simulated_cluster(plan)
    with TraceFile.open(plan.trace) as trace:
        feed = Feed(starts_of(plan, trace), plan.gap_factor, cluster.block_tokens)
        yield Simulator(cluster, ARMS[plan.arm], profile, feed, sinks), feed


@contextmanager
def _clock() -> Iterator[dict[str, float]]:
    """Wall and CPU time (of all threads) of what is done inside."""
    spent: dict[str, float] = {}
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    yield spent
    spent.update(seconds=time.perf_counter() - wall_s, cpu_s=time.process_time() - cpu_s)


def _drop(*rows: object) -> None:
    pass


@compiled
def _spin(queue: Heap, num_new: int, num_events: int) -> None:
    """Put new events in, then take so many, each of which puts in another one."""
    random, now_ns = 88172645463325252, 0
    for place in range(num_new + num_events):
        if place >= num_new:
            now_ns, _, _, _ = take(queue)
        random = (random * 1103515245 + 12345) % 2147483648
        put(queue, now_ns + random, place % 8, place, 0)


@compiled
def _tell(
    state: State, log: Integers, begin: int, end: int, flights: Integers, firsts: Integers, counts: Integers
) -> None:
    """Tell a scheduler the events [begin, end) of a simulation. Requests and batches are numbers there; here `flights`
    and `firsts` say which flight stands for a request, and which is the first of a batch."""
    for place in range(begin, end):
        kind, subject, a = log[place, 1], log[place, 2], log[place, 3]
        if kind == DUE:
            flights[subject] = steps.turn_due(state, log[place, 5], log[place, 6], log[place, 7])
        elif kind == READ_DONE:
            steps.read_done(state, flights[subject], a)
        elif kind == COMPUTED:
            steps.prefill_computed(state, subject)
        elif kind == SENT:
            steps.prefill_sent(state, firsts[a], subject)
        elif kind == FREED:
            steps.buffer_freed(state, flights[subject])
        elif kind == ENDED:
            steps.turn_ended(state, flights[subject])
        elif kind == REPORTED:
            steps.queues_reported(state)
        for number in range(state.counts[0].num_commands):
            if state.commands[number, 0] == PREFILL_BATCH:
                firsts[counts[_BATCHES]] = state.commands[number, 1]
                counts[_BATCHES] += 1
            elif state.commands[number, 0] == ASSIGNED:
                counts[_ASSIGNED] += 1
        counts[_COMMANDS] += state.counts[0].num_commands


if __name__ == "__main__":
    sys.exit(main())
