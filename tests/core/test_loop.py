"""The main loop, with the audited fake backend and with scripted ones."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from dualpath.core.arms import ARMS
from dualpath.core.commands import Assigned, Command, Decode
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
from dualpath.core.feed import DueTurn, Feed
from dualpath.core.loop import Backend, run
from dualpath.core.scheduler import Scheduler
from dualpath.core.trajectory import Trajectory, Turn
from fake_backend import FakeBackend
from small_cluster import BLOCK_TOKENS, small_cluster
from starting import starting


class Rows:
    """A recorder that keeps everything."""

    def __init__(self) -> None:
        self.rows: list[tuple[Event, list[Command], int]] = []

    def decided(self, event: Event, commands: Sequence[Command], at_ns: int, cost_ns: int) -> None:
        self.rows.append((event, list(commands), cost_ns))

    @property
    def events(self) -> list[Event]:
        return [event for event, _, _ in self.rows]


def agents(count: int, turns: int, append: int = 13, generate: int = 3, gap_ns: int = 0) -> list[Trajectory]:
    return [Trajectory(str(i), tuple(Turn(append, generate, gap_ns) for _ in range(turns))) for i in range(count)]


class Requests:
    """Numbers requests as they fall due; everything the agent said before is a hit."""

    def __init__(self, trajectories: list[Trajectory]) -> None:
        self._trajectories = trajectories
        self._prompts = [trajectory.prompt_tokens() for trajectory in trajectories]
        self.made: list[Request] = []

    def __call__(self, due: DueTurn) -> Request:
        prompt_tokens = self._prompts[due.trajectory][due.turn]
        turn = self._trajectories[due.trajectory].turns[due.turn]
        kept = prompt_tokens - turn.append_tokens
        request = Request(
            len(self.made),
            due.trajectory,
            due.turn,
            prompt_tokens,
            turn.generate_tokens,
            max(0, kept - 1) // BLOCK_TOKENS,
        )
        self.made.append(request)
        return request


def replay(arm: str, seed: int, trajectories: list[Trajectory], arrivals_ns: list[int]) -> tuple[Rows, FakeBackend]:
    cluster = small_cluster((2, 1), (1, 2), decode_hbm=60, prefill_buffer=60, decode_buffer=60, quota_pairs=200)
    scheduler, rows = Scheduler(cluster, ARMS[arm]), Rows()
    backend = FakeBackend(cluster, ARMS[arm], seed)
    requests = Requests(trajectories)
    feed = Feed(starting(trajectories, arrivals_ns), gap_scale=1.0)
    run(feed, lambda due: backend.submit(requests(due)), scheduler, backend, rows, lambda: 0)
    assert feed.finished
    assert scheduler.flights == {}
    backend.check_idle()
    return rows, backend


@pytest.mark.parametrize("arm", sorted(ARMS))
def test_every_turn_of_every_agent_is_served(arm: str) -> None:
    rows, _ = replay(arm, 3, agents(7, 5, gap_ns=4), [0] * 7)
    due = [event for event in rows.events if isinstance(event, TurnDue)]
    ended = [event for event in rows.events if isinstance(event, TurnEnded)]
    assert sorted((e.request.trajectory, e.request.turn) for e in due) == [(i, k) for i in range(7) for k in range(5)]
    assert sorted(event.request for event in ended) == list(range(35))
    assert [event.request.id for event in due] == list(range(35)), "ids in the order in which turns fell due"


@pytest.mark.parametrize("arm", ["layerwise", "dualpath", "split"])
def test_a_turn_is_due_after_the_one_before_it(arm: str) -> None:
    rows, _ = replay(arm, 5, agents(5, 4, gap_ns=9), [0, 3, 6, 9, 12])
    end_ns: dict[tuple[int, int], int] = {}
    turn_of: dict[int, tuple[int, int]] = {}
    for event in rows.events:
        match event:
            case TurnDue(t_ns=t_ns, request=request):
                turn_of[request.id] = request.trajectory, request.turn
                before = (request.trajectory, request.turn - 1)
                assert t_ns == (end_ns[before] + 9 if request.turn else 3 * request.trajectory)
            case TurnEnded(request=number, end_ns=end):
                end_ns[turn_of[number]] = end


def test_the_same_run_twice_gives_the_same_rows() -> None:
    first, _ = replay("dualpath", 11, agents(6, 4), [0] * 6)
    second, _ = replay("dualpath", 11, agents(6, 4), [0] * 6)
    other, _ = replay("dualpath", 12, agents(6, 4), [0] * 6)
    assert first.rows == second.rows
    assert first.rows != other.rows


def test_a_recorded_run_replays_to_the_same_decisions() -> None:
    """Through the loop's own rows, as a run directory keeps them."""
    rows, _ = replay("split", 2, agents(6, 4), [0] * 6)
    cluster = small_cluster((2, 1), (1, 2), decode_hbm=60, prefill_buffer=60, decode_buffer=60, quota_pairs=200)
    fresh = Scheduler(cluster, ARMS["split"])
    assert [fresh.handle(event) for event in rows.events] == [commands for _, commands, _ in rows.rows]


def test_parents_and_sub_agents_through_the_loop() -> None:
    turn = Turn(9, 2)
    trajectories = [
        Trajectory("p", (turn, turn)),
        Trajectory("x", (turn, turn), "p", 0),
        Trajectory("y", (turn,), "p", 0),
        Trajectory("z", (turn,), "x", 0),
    ]
    rows, _ = replay("dualpath", 1, trajectories, [0])
    order = [(e.request.trajectory, e.request.turn) for e in rows.events if isinstance(e, TurnDue)]
    assert order[0] == (0, 0)
    assert order[-1] == (0, 1)
    assert order.index((3, 0)) < order.index((1, 1))


class AllAtOnce:
    """Everything takes no time: each wait returns all that has happened, the clock never moves. The null engine."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self.waits: list[int | None] = []

    def now_ns(self) -> int:
        return 0

    def wait(self, until_ns: int | None) -> Sequence[Event]:
        self.waits.append(until_ns)
        events, self._events = self._events, []
        assert events, "nothing will ever happen"
        return events

    def execute(self, commands: Sequence[Command]) -> None:
        for command in commands:
            match command:
                case Assigned():
                    pass
                case Decode(request=request):
                    self._events += [BufferFreed(0, request), TurnEnded(0, request, 0, 0, None)]
                case _ if hasattr(command, "side"):
                    self._events.append(ReadDone(0, command.request, command.side))
                case _ if hasattr(command, "chunks"):
                    self._events.append(PrefillComputed(0, command.engine, command.batch, 0))
                    self._events.append(PrefillSent(0, command.engine, command.batch))


def through(backend: Backend, trajectories: list[Trajectory], arrivals_ns: list[int]) -> Rows:
    rows, requests = Rows(), Requests(trajectories)
    scheduler = Scheduler(small_cluster(), ARMS["dualpath"])
    run(Feed(starting(trajectories, arrivals_ns)), requests, scheduler, backend, rows, lambda: 0)
    return rows


def test_turns_that_fall_due_at_once_come_by_trajectory_before_anything_else_happens() -> None:
    """The one order of simultaneous events: due turns by trajectory, then the backend's events as it tells them."""
    backend = AllAtOnce()
    rows = through(backend, agents(4, 3), [0] * 4)
    due = [(e.request.trajectory, e.request.turn) for e in rows.events if isinstance(e, TurnDue)]
    assert sorted(due) == [(i, k) for i in range(4) for k in range(3)]
    assert due[:4] == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert all(isinstance(event, TurnDue) for event in rows.events[:4])
    assert rows.rows == through(AllAtOnce(), agents(4, 3), [0] * 4).rows
    assert set(backend.waits) == {None}


class Scripted:
    """Tells what it is given, wait by wait; notes what the loop asks and does."""

    def __init__(self, script: list[tuple[int, list[Event]]]) -> None:
        self._script = script
        self._now_ns = 0
        self.waits: list[int | None] = []
        self.executed: list[list[Command]] = []

    def now_ns(self) -> int:
        return self._now_ns

    def wait(self, until_ns: int | None) -> Sequence[Event]:
        self.waits.append(until_ns)
        self._now_ns, events = self._script.pop(0)
        return events

    def execute(self, commands: Sequence[Command]) -> None:
        self.executed.append(list(commands))


def ends(t_ns: int, request: int) -> list[Event]:
    return [
        PrefillComputed(t_ns, 0, request, t_ns),
        PrefillSent(t_ns, 0, request),
        BufferFreed(t_ns, request),
        TurnEnded(t_ns + 5, request, None, t_ns, None),
    ]


def test_the_loop_waits_until_the_next_known_turn_and_counts_from_the_last_token() -> None:
    backend = Scripted([(30, []), (45, ends(40, 0)), (90, ends(90, 1)), (95, ends(95, 2))])
    rows = through(backend, [Trajectory("a", (Turn(3, 1), Turn(1, 1))), Trajectory("b", (Turn(5, 1),))], [0, 30])
    assert backend.waits == [30, None, None, None]
    due = [(event.t_ns, event.request.trajectory) for event in rows.events if isinstance(event, TurnDue)]
    # Trajectory a's second turn: from its last token at 40, not from the news of its end at 45.
    assert due == [(0, 0), (30, 1), (40, 0)]


def test_nothing_is_executed_for_an_event_without_commands() -> None:
    backend = Scripted([(40, ends(40, 0))])
    rows = through(backend, [Trajectory("a", (Turn(5, 1),))], [0])
    assert len(rows.rows) == 5
    assert all(backend.executed)
    assert len(backend.executed) == sum(bool(commands) for _, commands, _ in rows.rows) == 2


def test_only_the_decision_is_priced() -> None:
    ticks = iter(range(0, 1000, 7))
    trajectories = [Trajectory("a", (Turn(5, 1),))]
    rows = Rows()
    scheduler = Scheduler(small_cluster(), ARMS["basic"])
    run(
        Feed(starting(trajectories)),
        Requests(trajectories),
        scheduler,
        Scripted([(40, ends(40, 0))]),
        rows,
        lambda: next(ticks),
    )
    assert [cost_ns for _, _, cost_ns in rows.rows] == [7] * 5


def test_an_error_of_the_backend_ends_the_run() -> None:
    class Failing(Scripted):
        def wait(self, until_ns: int | None) -> Sequence[Event]:
            raise RuntimeError("engine 1 died")

    with pytest.raises(RuntimeError, match="engine 1 died"):
        through(Failing([]), agents(1, 1), [0])
