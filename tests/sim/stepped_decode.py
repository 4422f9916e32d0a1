"""Decode stepped token by token: what `sim/decode.py` must agree with, to the nanosecond."""

from __future__ import annotations

from dataclasses import dataclass, field

PS = 1000


@dataclass(frozen=True)
class Job:
    """A request that asks at at_ns to decode tokens_left more tokens on an engine of the group."""

    at_ns: int
    engine: int
    context_tokens: int
    tokens_left: int


@dataclass
class Stepped:
    """One group. costs_ps: fixed, per request, per context token."""

    costs_ps: tuple[int, int, int]
    second_ns: dict[int, int] = field(default_factory=dict)  # by number of the job
    end_ns: dict[int, int] = field(default_factory=dict)

    def run(self, jobs: list[Job]) -> None:
        """Jobs in order of at_ns. A job joins at the first step boundary whose whole nanosecond is not before it."""
        fixed, per_request, per_context = self.costs_ps
        waiting = list(enumerate(jobs))
        active: list[list[int]] = []  # [job, engine, context, tokens left]
        clock_ps = 0
        while waiting or active:
            if not active and waiting[0][1].at_ns > -(-clock_ps // PS):  # idle until then
                clock_ps = waiting[0][1].at_ns * PS
            now_ns = -(-clock_ps // PS)
            joined = []
            while waiting and waiting[0][1].at_ns <= now_ns:
                number, job = waiting.pop(0)
                active.append([number, job.engine, job.context_tokens, job.tokens_left])
                joined.append(number)
            by_engine: dict[int, int] = {}
            for _, engine, context, _ in active:
                by_engine[engine] = by_engine.get(engine, 0) + per_request + per_context * context
            clock_ps += fixed + max(by_engine.values())
            for number in joined:
                self.second_ns[number] = -(-clock_ps // PS)
            for job in active:
                job[2] += 1
                job[3] -= 1
                if not job[3]:
                    self.end_ns[job[0]] = -(-clock_ps // PS)
            active = [job for job in active if job[3]]
