"""The feed: gaps, arrivals, sub-agents, and the order of turns that fall due together."""

from __future__ import annotations

from collections.abc import Iterator

from dualpath.core.feed import DueTurn, Feed, Start
from dualpath.core.trajectory import Trajectory, Turn
from hypothesis import given, settings
from hypothesis import strategies as st
from starting import starting


def agent(name: str, gaps_ns: list[int], parent: str | None = None, parent_turn: int | None = None) -> Trajectory:
    return Trajectory(name, tuple(Turn(1, 1, gap_ns) for gap_ns in gaps_ns), parent, parent_turn)


def test_a_turn_is_due_its_gap_after_the_one_before() -> None:
    feed = Feed(starting([agent("a", [500, 30])], [7]), gap_scale=1.0)
    assert feed.next_due_ns == 7  # the first turn's own gap is nobody's: its arrival says when
    assert feed.due(6) == []
    assert feed.due(7) == [DueTurn(7, 0, 0)]
    assert feed.next_due_ns is None
    feed.ended(0, 0, 100)
    assert feed.next_due_ns == 130
    assert feed.due(1000) == [DueTurn(130, 0, 1)]
    assert not feed.finished
    feed.ended(0, 1, 1100)
    assert feed.finished
    assert feed.next_due_ns is None


def test_gaps_are_scaled_and_dropped_at_zero() -> None:
    for scale, due_ns in ((0.0, 100), (0.5, 115), (1.0, 130), (2.0, 160)):
        feed = Feed(starting([agent("a", [0, 30])]), gap_scale=scale)
        feed.due(0)
        feed.ended(0, 0, 100)
        assert feed.next_due_ns == due_ns


def test_each_trajectory_starts_at_its_arrival() -> None:
    feed = Feed(starting([agent("a", [0]), agent("b", [0]), agent("c", [0])], [0, 10, 20]))
    assert feed.due(10) == [DueTurn(0, 0, 0), DueTurn(10, 1, 0)]
    assert feed.next_due_ns == 20
    assert feed.due(19) == []
    assert feed.due(20) == [DueTurn(20, 2, 0)]
    assert feed.next_due_ns is None


def test_trajectories_are_taken_as_they_arrive_and_dropped_when_they_end() -> None:
    """Ten thousand trajectories of which few run at a time: the feed holds those, and one that is still to come."""
    taken = 0

    def many() -> Iterator[Start]:
        nonlocal taken
        for number in range(10_000):
            taken += 1
            yield Start(10 * number, [agent(f"p{number}", [0, 0]), agent(f"c{number}", [0], f"p{number}", 0)])

    feed = Feed(many())
    now_ns = turns = 0
    while not feed.finished:
        now_ns = feed.next_due_ns or 0
        for due in feed.due(now_ns):
            assert feed.trajectory(due.trajectory).id.endswith(str(due.trajectory // 2))
            feed.ended(due.trajectory, due.turn, now_ns + 7)
            turns += 1
        assert feed.num_live <= 6
        assert taken <= now_ns // 10 + 2
    assert turns == 30_000


def test_who_has_arrived_can_be_taken_before_anybody_asks_what_is_due() -> None:
    feed = Feed(starting([agent("a", [0]), agent("b", [0]), agent("c", [0])], [0, 0, 20]))
    feed.take_arrived(0)
    assert feed.num_live == 2
    assert feed.due(0) == [DueTurn(0, 0, 0), DueTurn(0, 1, 0)]
    assert feed.next_due_ns == 20


def test_turns_due_together_come_by_trajectory_then_turn() -> None:
    """Whatever the order in which their predecessors ended."""
    feed = Feed(starting([agent(name, [0, 0]) for name in "abc"]))
    assert [due.trajectory for due in feed.due(0)] == [0, 1, 2]
    for trajectory in (2, 0, 1):
        feed.ended(trajectory, 0, 50)
    assert feed.due(50) == [DueTurn(50, 0, 1), DueTurn(50, 1, 1), DueTurn(50, 2, 1)]


def test_earlier_turns_come_first_even_when_learnt_later() -> None:
    feed = Feed(starting([agent("a", [0, 0]), agent("b", [0, 0])]))
    feed.due(0)
    feed.ended(0, 0, 60)
    feed.ended(1, 0, 50)
    assert feed.due(60) == [DueTurn(50, 1, 1), DueTurn(60, 0, 1)]


def test_a_parent_waits_for_all_its_sub_agents() -> None:
    trajectories = [agent("p", [0, 5]), agent("x", [3], "p", 0), agent("y", [0, 0], "p", 0)]
    feed = Feed(starting(trajectories), gap_scale=1.0)
    assert feed.due(0) == [DueTurn(0, 0, 0)]  # sub-agents have no arrival of their own
    feed.ended(0, 0, 100)
    assert feed.due(200) == [DueTurn(100, 2, 0), DueTurn(103, 1, 0)]
    feed.ended(1, 0, 210)
    assert feed.next_due_ns is None
    feed.ended(2, 0, 220)
    assert feed.due(220) == [DueTurn(220, 2, 1)]
    feed.ended(2, 1, 300)
    assert feed.due(305) == [DueTurn(305, 0, 1)]


def test_a_parent_waits_for_the_last_end_not_for_the_last_news() -> None:
    """A turn is told ended when its blocks are stored, so ends can be told out of order."""
    feed = Feed(starting([agent("p", [0, 5]), agent("x", [0], "p", 0), agent("y", [0], "p", 0)]), gap_scale=1.0)
    feed.due(0)
    feed.ended(0, 0, 100)
    feed.due(100)
    feed.ended(2, 0, 250)
    feed.ended(1, 0, 200)
    assert feed.due(1000) == [DueTurn(255, 0, 1)]


def test_sub_agents_may_have_sub_agents() -> None:
    trajectories = [agent("p", [0, 0]), agent("c", [0, 0], "p", 0), agent("g", [0], "c", 0), agent("h", [0], "c", 1)]
    feed = Feed(starting(trajectories))
    order: list[tuple[int, int]] = []
    now_ns = 0
    while not feed.finished:
        (due,) = feed.due(now_ns)
        order.append((due.trajectory, due.turn))
        now_ns += 10
        feed.ended(due.trajectory, due.turn, now_ns)
    assert order == [(0, 0), (1, 0), (2, 0), (1, 1), (3, 0), (0, 1)]


def test_sub_agents_of_the_last_turn_run_too() -> None:
    feed = Feed(starting([agent("p", [0]), agent("c", [0], "p", 0)]))
    feed.due(0)
    feed.ended(0, 0, 10)
    assert not feed.finished
    assert feed.due(10) == [DueTurn(10, 1, 0)]
    feed.ended(1, 0, 20)
    assert feed.finished


def test_sub_agents_of_different_turns_do_not_mix() -> None:
    feed = Feed(starting([agent("p", [0, 0, 0]), agent("x", [0], "p", 0), agent("y", [0], "p", 1)]))
    order: list[tuple[int, int]] = []
    now_ns = 0
    while not feed.finished:
        (due,) = feed.due(now_ns)
        order.append((due.trajectory, due.turn))
        now_ns += 1
        feed.ended(due.trajectory, due.turn, now_ns)
    assert order == [(0, 0), (1, 0), (0, 1), (2, 0), (0, 2)]


@st.composite
def families(draw: st.DrawFn) -> list[Trajectory]:
    """Any forest: each trajectory is a root or a sub-agent of a turn of its family."""
    trajectories: list[Trajectory] = []
    for position in range(draw(st.integers(1, 12))):
        gaps_ns = draw(st.lists(st.integers(0, 9), min_size=1, max_size=4))
        if position and draw(st.booleans()):
            root = max(index for index, each in enumerate(trajectories) if each.parent is None)
            parent = trajectories[draw(st.integers(root, position - 1))]
            turn = draw(st.integers(0, len(parent.turns) - 1))
            trajectories.append(agent(str(position), gaps_ns, parent.id, turn))
        else:
            trajectories.append(agent(str(position), gaps_ns))
    return trajectories


@settings(max_examples=200, deadline=None, derandomize=True)
@given(families(), st.randoms(use_true_random=False), st.sampled_from([0.0, 1.0]))
def test_every_turn_is_due_once_after_what_it_waits_for(trajectories: list[Trajectory], random, scale: float) -> None:
    """A slow rule: due = end of the predecessor and all below it, plus the gap. Ends are told in any order."""
    roots = sum(trajectory.parent is None for trajectory in trajectories)
    starts = starting(trajectories, [random.randint(0, 5) for _ in range(roots)])
    trajectories = [trajectory for start in starts for trajectory in start.family]
    feed = Feed(starts, scale)
    position = {trajectory.id: index for index, trajectory in enumerate(trajectories)}
    end_ns: dict[tuple[int, int], int] = {}

    def all_below_ns(trajectory: int, turn: int) -> int:
        """When a turn and all sub-agents it started had ended."""
        ends = [end_ns[trajectory, turn]]
        for child, other in enumerate(trajectories):
            if other.parent is not None and (position[other.parent], other.parent_turn) == (trajectory, turn):
                ends.append(all_below_ns(child, len(other.turns) - 1))
        return max(ends)

    running: list[tuple[int, DueTurn]] = []
    while not feed.finished:
        for due in feed.due(10**9):
            trajectory = trajectories[due.trajectory]
            gap_ns = int(trajectory.turns[due.turn].gap_ns * scale)
            if due.turn:
                assert due.due_ns == all_below_ns(due.trajectory, due.turn - 1) + gap_ns
            elif trajectory.parent is not None:
                assert due.due_ns == end_ns[position[trajectory.parent], trajectory.parent_turn or 0] + gap_ns
            running.append((due.due_ns + random.randint(0, 20), due))
        assert running, "the feed waits for nobody"
        end, due = running.pop(random.randrange(len(running)))
        assert (due.trajectory, due.turn) not in end_ns
        end_ns[due.trajectory, due.turn] = end
        feed.ended(due.trajectory, due.turn, end)
    assert len(end_ns) == sum(len(trajectory.turns) for trajectory in trajectories)
