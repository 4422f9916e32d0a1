"""The loops that a run goes through most, each alone: what `dualpath gate` counts the instructions of, and times.

    pytest bench/test_hot_loops.py                              # times
    pytest bench/test_hot_loops.py --benchmark-json=loops.json  # kept

Sizes are such that a loop executes some hundred million instructions or less: under callgrind that takes seconds.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from dualpath.cluster_file import load_cluster
from dualpath.core.arms import ARMS
from dualpath.core.cluster import Cluster
from dualpath.core.commands import Command, Decode, Prefill, Read
from dualpath.core.events import (
    BufferFreed,
    Event,
    PrefillComputed,
    PrefillSent,
    ReadDone,
    Request,
    TurnDue,
    TurnEnded,
)
from dualpath.core.feed import DueTurn, Feed, Start
from dualpath.core.hops import BytePrediction
from dualpath.core.loop import run
from dualpath.core.prefix import PrefixIndex
from dualpath.core.scheduler import Scheduler
from dualpath.engine.block_copy import Region, copy_pieces
from dualpath.engine.store_index import Location, pack_record, records
from dualpath.engine.store_layout import StoreLayout
from dualpath.results.recorder import decision_row
from dualpath.results.table_writer import TableWriter
from dualpath.results.tables import TABLES
from dualpath.trace import starts
from dualpath.trace.reader import TraceFile
from dualpath.trace.select import select

ROOT = Path(__file__).resolve().parents[1]
CLUSTER = ROOT / "bench" / "clusters" / "cpu-2p1d.toml"
TRACE, AGENTS, SCALE, MAX_LEN = ROOT / "traces" / "agents-32k.parquet", 6, Fraction(1, 16), 768
STEP_NS = 1_000_000  # what everything takes at the instant engine
ARM = ARMS["dualpath"]

Hot = Callable[[Callable[[], object]], None]


class Instant:
    """A backend in virtual time, where a read, a pass and a turn take a step each."""

    def __init__(self) -> None:
        self._now_ns = 0
        self._order = itertools.count()
        self._events: list[tuple[int, int, Event]] = []

    def now_ns(self) -> int:
        return self._now_ns

    def wait(self, until_ns: int | None) -> Sequence[Event]:
        if not self._events or (until_ns is not None and self._events[0][0] > until_ns):
            assert until_ns is not None, "somebody has something to do"
            self._now_ns = until_ns
            return []
        self._now_ns, _, event = heapq.heappop(self._events)
        return [event]

    def execute(self, commands: Sequence[Command]) -> None:
        t_ns = self._now_ns + STEP_NS
        for command in commands:
            match command:
                case Read(request=request, side=side):
                    self._put(ReadDone(t_ns, request, side))
                case Prefill(engine=engine, batch=batch):
                    self._put(PrefillComputed(t_ns, engine, batch, self._now_ns))
                    self._put(PrefillSent(t_ns, engine, batch))
                case Decode(request=request):
                    self._put(BufferFreed(t_ns, request))
                    self._put(TurnEnded(t_ns, request, t_ns, t_ns, None))

    def _put(self, event: Event) -> None:
        heapq.heappush(self._events, (event.t_ns, next(self._order), event))


class Notes:
    """A recorder that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[Event, list[Command]]] = []

    def decided(self, event: Event, commands: Sequence[Command], at_ns: int, cost_ns: int) -> None:
        self.heard.append((event, list(commands)))


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return load_cluster(CLUSTER).cluster


@pytest.fixture(scope="module")
def agents() -> list[Start]:
    with TraceFile.open(TRACE) as trace:
        return list(starts.offline(select(trace, AGENTS, 0, scale=SCALE, max_len=MAX_LEN)))


@pytest.fixture(scope="module")
def heard(cluster: Cluster, agents: list[Start]) -> list[tuple[Event, list[Command]]]:
    """All events of a run, and what was decided at each."""
    feed, notes = Feed(agents, block_tokens=cluster.block_tokens), Notes()
    run(feed, _admit(feed), Scheduler(cluster, ARM), Instant(), notes, lambda: 0)
    return notes.heard


def _admit(feed: Feed) -> Callable[[DueTurn], Request]:
    numbers = itertools.count()

    def admit(due: DueTurn) -> Request:
        trajectory = feed.trajectory(due.trajectory)
        turn, hits = trajectory.turns[due.turn], trajectory.planned_hit_tokens(64)[due.turn]
        prompt = trajectory.prompt_tokens()[due.turn]
        return Request(next(numbers), due.trajectory, due.turn, prompt, turn.generate_tokens, hits // 64)

    return admit


def test_scheduler_decision(hot: Hot, cluster: Cluster, heard: list[tuple[Event, list[Command]]]) -> None:
    events = [event for event, _ in heard]

    def loop() -> None:
        scheduler = Scheduler(cluster, ARM)
        for event in events:
            scheduler.handle(event)

    hot(loop)


def test_feed(hot: Hot, cluster: Cluster, agents: list[Start]) -> None:
    def loop() -> None:
        for _ in range(5):
            feed, now_ns = Feed(agents, block_tokens=cluster.block_tokens), 0
            while not feed.finished:
                for due in feed.due(now_ns):
                    feed.ended(due.trajectory, due.turn, now_ns + STEP_NS)
                now_ns += STEP_NS

    hot(loop)


def test_block_index(hot: Hot) -> None:
    """What is found in storage, and what is written so that it is found after a crash."""
    layout = StoreLayout("model", 64, 4096)
    keys = [number.to_bytes(16, "little") for number in range(2500)]

    def loop() -> None:
        index = PrefixIndex()
        for end in range(100, len(keys), 100):
            index.add(keys[end - 100 : end])
            assert index.match(keys[: end + 1]) == end
        raw = b"".join(pack_record(key, Location("a", 0, 1), layout) for key in keys)
        assert sum(record is not None for record in records(raw, layout, "a")) == len(keys)

    hot(loop)


def test_hop_charging(hot: Hot, cluster: Cluster, heard: list[tuple[Event, list[Command]]]) -> None:
    scheduler = Scheduler(cluster, ARM)
    flights = {}
    for event, _ in heard:
        scheduler.handle(event)
        if isinstance(event, TurnDue):
            flights[event.request.id] = scheduler.flights[event.request.id]

    def loop() -> None:
        prediction = BytePrediction(cluster, ARM)
        for _, commands in heard:
            prediction.add(commands, flights)

    hot(loop)


def test_table_writing(hot: Hot, heard: list[tuple[Event, list[Command]]], tmp_path: Path) -> None:
    def loop() -> None:
        table = TableWriter(tmp_path / "decisions.parquet", TABLES["decisions"])
        for index, (event, commands) in enumerate(itertools.chain(heard, heard)):
            table.append(decision_row(index, event, commands, 0))
        table.close()

    hot(loop)


def test_layer_block_copies(hot: Hot) -> None:
    """On the CPU: 4 KiB pieces between a buffer and what stands in for device memory."""
    num, num_bytes = 2000, 4096
    source, target = (Region(torch.zeros(num * num_bytes, dtype=torch.uint8)) for _ in range(2))
    offsets = np.arange(num, dtype=np.int64) * num_bytes
    pieces = np.stack([offsets, offsets[::-1], np.full(num, num_bytes)], axis=1)
    hot(lambda: copy_pieces(source, target, pieces).wait())
