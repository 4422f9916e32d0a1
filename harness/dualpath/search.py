"""The largest rate of arriving agents at which a system keeps an SLO, on either backend.

    rates -> bisection (core) -> runs (series) -> latencies in the judged window -> verdicts -> bracket and interval

Every repeat has a seed of its own and is bisected by itself, so that repeats say how sure the answer is
(results/capacity.py). The seed draws when agents arrive, their tools' times (--gap-s), and, where the trace has fewer
agents than are asked for, whose trajectories are copied. Runs stay where they are: a search that is begun again keeps
those that are whole, and judges them anew, so another SLO costs only the rates that it asks for in addition.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dualpath.core.bisection import ladder
from dualpath.core.errors import PlanError, RunError
from dualpath.plan import Plan
from dualpath.report.search import as_value
from dualpath.results.offered import offered
from dualpath.results.recorder import write_json
from dualpath.results.run import Run
from dualpath.results.searched import Probe, Row, Searched
from dualpath.results.slo import Slo
from dualpath.results.termination import EARLIER_S, WINDOW_S
from dualpath.series import Step, run_series

ROWS, RESULT = "search.jsonl", "search.json"
_MOST_RATES = 4096


@dataclass(frozen=True, slots=True)
class Search:
    """All that decides a search. Rates are agents per second."""

    plan: Plan  # trace, cluster, backend and choice of trajectories; its arm, output and arrivals are not used
    arms: tuple[str, ...]
    slo: Slo
    output: Path
    low: float
    high: float
    within: float = 0.05  # neighbouring rates differ by this share at most
    repeats: int = 5
    arrivals_s: float | None = None  # agents arrive for so long; None: the plan's number of agents, at every rate
    window_s: float = WINDOW_S

    def __post_init__(self) -> None:
        """Raises PlanError."""
        if not 1e-9 < self.low < self.high < 1e9:
            raise PlanError(
                f"--low {self.low:g} and --high {self.high:g} must be rates between 1e-9 and 1e9 agents per second, "
                "the first one smaller"
            )
        if not 1e-4 <= self.within <= 1:
            raise PlanError(f"--within is {self.within:.4%}; it must be between 0.01% and 100%")
        if len(self.rates) > _MOST_RATES:
            raise PlanError(
                f"--low {self.low:g} to --high {self.high:g} --within {self.within:.2%} are {len(self.rates):,} rates; "
                f"at most {_MOST_RATES:,}: bring them closer, or raise --within"
            )
        if not 1 <= self.repeats <= 1000:
            raise PlanError(f"--repeats is {self.repeats}; it must be between 1 and 1000")
        if not 1e-3 <= self.window_s <= 1e6:
            raise PlanError(f"--window-s is {self.window_s:g}; it must be between 0.001 and 1e6 seconds")
        if self.arrivals_s is not None and self.plan.agents is not None:
            raise PlanError(
                f"--arrivals-s {self.arrivals_s:g} and --agents {self.plan.agents} exclude each other: how many agents "
                "arrive follows from one of them"
            )
        if self.arrivals_s is not None and not 0 < self.arrivals_s * self.high <= 1e7:
            raise PlanError(
                f"--arrivals-s {self.arrivals_s:g} at --high {self.high:g} is {self.arrivals_s * self.high:g} agents; "
                "it must be above 0 and at most 1e7"
            )

    @property
    def rates(self) -> tuple[float, ...]:
        return ladder(self.low, self.high, self.within)

    @property
    def rule(self) -> str:
        """Name of the rule that chooses the judged window; with the paper's window `mean-150s-30min`."""
        return f"mean-{self.window_s:g}s-{self.window_s * EARLIER_S / WINDOW_S / 60:g}min"

    def plan_of(self, probe: Probe) -> Plan:
        rate = self.rates[probe.place]
        return replace(
            self.plan,
            arm=probe.arm,
            mode="online",
            rate_per_s=rate,
            seed=self.plan.seed + probe.repeat,
            repeat=probe.repeat,
            agents=self.plan.agents if self.arrivals_s is None else math.ceil(round(rate * self.arrivals_s, 6)),
            output=self.output / probe.arm / f"rate-{rate:g}" / f"r{probe.repeat}",
        )


def search(wanted: Search) -> Searched:
    """Run what is not there yet, round by round: in each, the next rate of every arm and repeat.

    Bad input raises a DualpathError before anything runs; a run that was judged in a window without a turn raises
    RunError, and is kept. A void run decides nothing and ends the search, as Ctrl-C does; what is whole is kept, and
    the search goes on from there when it is begun again.
    """
    rows: dict[Probe, Row] = {}
    found = Searched(wanted.arms, wanted.repeats, wanted.rates, wanted.slo, wanted.rule, rows)
    while not found.void and not found.is_interrupted and (due := found.due()):
        plans = {probe: wanted.plan_of(probe) for probe in due}
        outcomes = run_series([Step(_name(plan), plan) for plan in plans.values()], replace=False)
        failed = [outcome for outcome in outcomes if outcome.status != "ok"]
        for probe, plan in plans.items():
            if (plan.output / "run.json").exists() and not (run := Run.load(plan.output)).void:
                rows[probe] = _row(wanted, run, plan)
        found = replace(
            found,
            is_interrupted=any(outcome.interrupted for outcome in failed),
            void=tuple(
                f"{outcome.directory}: {'; '.join(outcome.reasons)}" for outcome in failed if not outcome.interrupted
            ),
        )
        _write_rows(wanted.output / ROWS, rows)
        write_json(wanted.output / RESULT, as_value(found))
    return found


def _name(plan: Plan) -> str:
    return f"{plan.arm} at {plan.rate_per_s:g}/s, repeat {plan.repeat}"


def _row(wanted: Search, run: Run, plan: Plan) -> Row:
    """A probe, judged; latencies in ns."""
    judged = offered(run, wanted.slo, wanted.window_s)
    return {
        "arm": plan.arm,
        "rate_per_s": plan.rate_per_s,
        "repeat": plan.repeat,
        "seed": plan.seed,
        "run": str(plan.output.relative_to(wanted.output)),
        "stop": judged.stop.reason,
        "window_start_s": judged.stop.start_s,
        "window_end_s": judged.stop.end_s,
        "turns": judged.turns,
        **judged.latencies_ns,
        "met": wanted.slo.is_met(judged.latencies_ns),
    }


def _write_rows(path: Path, rows: Mapping[Probe, Row]) -> None:
    """One JSON object per line. Raises RunError."""
    draft = path.with_suffix(".draft")
    try:
        draft.write_text("".join(json.dumps(row) + "\n" for _, row in sorted(rows.items())))
        draft.replace(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}; free space, or choose another -o") from None
