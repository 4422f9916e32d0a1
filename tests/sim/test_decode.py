"""The closed form of decode against decode stepped token by token."""

from __future__ import annotations

from dualpath.core.least import NEVER
from dualpath.core.queues import NONE
from dualpath.sim.decode import (
    Decode,
    ask_to_join,
    go_to_boundary,
    grow_decode,
    join,
    leave,
    new_decode,
    next_step_ns,
    plan,
    planned_ns,
    take_ended,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from stepped_decode import Job, Stepped


class Closed:
    """One group of `sim/decode.py`, visited when it asks to be, as `sim/machine.py` visits it."""

    def __init__(self, costs_ps: tuple[int, int, int], num_engines: int, jobs: list[Job]) -> None:
        self.decode: Decode = new_decode(num_engines, num_engines, costs_ps, 1)
        grow_decode(self.decode, len(jobs))
        self.jobs = jobs
        self.second_ns: dict[int, int] = {}
        self.end_ns: dict[int, int] = {}
        self.visits = 0

    def run(self) -> None:
        coming, visit_ns = list(enumerate(self.jobs)), NEVER
        while coming or visit_ns != NEVER:
            if coming and coming[0][1].at_ns <= visit_ns:
                number, job = coming.pop(0)
                visit_ns = ask_to_join(self.decode, 0, number, job.at_ns)
            else:
                visit_ns = self.visit(visit_ns)

    def visit(self, now_ns: int) -> int:
        decode = self.decode
        self.visits += 1
        go_to_boundary(decode, 0)
        number = take_ended(decode, 0)
        while number != NONE:
            job = self.jobs[number]
            leave(decode, job.engine, job.context_tokens + job.tokens_left)
            self.end_ns[number] = now_ns
            number = take_ended(decode, 0)
        joined, number = [], decode.groups[0].first_joining
        decode.groups[0].first_joining = NONE
        while number != NONE:
            behind = decode.next[number]
            job = self.jobs[number]
            join(decode, 0, number, job.engine, job.context_tokens, job.tokens_left)
            joined.append(int(number))
            number = behind
        assert decode.groups[0].requests == sum(decode.requests)
        if not decode.groups[0].requests:
            assert not decode.contexts.any(), "every context was given back"
            return NEVER
        for number in joined:
            self.second_ns[number] = next_step_ns(decode, 0)
        plan(decode, 0)
        return planned_ns(decode, 0)


@st.composite
def jobs(draw: st.DrawFn, num_engines: int) -> list[Job]:
    at_ns = 0
    found = []
    for _ in range(draw(st.integers(1, 30))):
        at_ns += draw(st.sampled_from([0, 0, 1, 3, 20, 500, 40_000]))
        context = draw(st.sampled_from([1, 7, 100, 5_000]))
        found.append(Job(at_ns, draw(st.integers(0, num_engines - 1)), context, draw(st.integers(1, 60))))
    return found


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.data(), st.integers(1, 4))
def test_every_timestamp_equals_the_stepped_one(data: st.DataObject, num_engines: int) -> None:
    """Whatever joins when, and however often another engine becomes the slowest."""
    todo = data.draw(jobs(num_engines))
    costs_ps = (
        data.draw(st.sampled_from([1_001, 7_001, 3_000_000])),
        data.draw(st.sampled_from([0, 1, 1_501])),
        data.draw(st.sampled_from([0, 1, 3, 1_700])),
    )
    stepped, closed = Stepped(costs_ps), Closed(costs_ps, num_engines, todo)
    stepped.run(todo)
    closed.run()
    assert closed.end_ns == stepped.end_ns
    assert closed.second_ns == stepped.second_ns


def test_long_outputs_take_few_visits() -> None:
    """Nothing is stepped: two requests of 100,000 tokens are four visits, and the slowest engine changes between."""
    todo = [Job(0, 0, 50_000, 100_000), Job(5, 1, 1, 100_000), Job(5, 1, 1, 100_000)]
    closed, stepped = Closed((28_000_000, 0, 37), 2, todo), Stepped((28_000_000, 0, 37))
    closed.run()
    stepped.run(todo)
    assert closed.end_ns == stepped.end_ns
    assert closed.visits <= 4
