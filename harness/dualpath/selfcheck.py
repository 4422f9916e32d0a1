"""Measures the instrument itself: stub engines answer after known delays, and what the harness says must agree.

The stubs are processes of their own, in the place of engines: messages, sockets, scheduler, main loop, recorder, tables
and metrics are those of every run. What an engine does to stamp a token that it has computed is not measured: stamps
here are the stub's.

    stubs -> latencies against known ones;  later stubs -> is it seen?;  more and more turns -> do releases lag?
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from dualpath.core.errors import PlanError
from dualpath.engine.messages import Delays
from dualpath.plan import Outcome, Plan
from dualpath.results.checks import write_checks
from dualpath.results.claims import QUANTILE, Claim, never_early_rarely_late
from dualpath.results.metrics import per_trajectory, per_turn, summary
from dualpath.results.run import Run
from dualpath.series import Step, run_series
from dualpath.stub_load import DELAYS, MS, TOKENS, TURNS, known_trajectories, known_turns, stub_plan

_OFFERED_S = 2.0
_DOUBLINGS = 6  # of the offered turns per second, at most


@dataclass(frozen=True, slots=True)
class Limits:
    """What is claimed."""

    release_ms: float = 5.0  # turns are released at most so long after they are due (p99)
    allow_ms: float = 10.0  # latencies are measured at most so much longer than they are known to be (p99)
    late_ms: float = 3.0  # answers that are later by this are seen as later by this, to a third
    turns_per_s: float = 100.0  # so many can be offered before
    lag_ms: float = 5.0  # releases are later than this (p99)

    def __post_init__(self) -> None:
        """Raises PlanError."""
        for name in self.__dataclass_fields__:
            if not 0 < getattr(self, name) <= 2000:
                option = name.replace("_", "-")
                raise PlanError(f"--{option} is {getattr(self, name):g}; it must be above 0 and at most 2000")


@dataclass(frozen=True, slots=True)
class Selfchecked:
    """claims: those that could be judged; all of them, unless a run was void or interrupted."""

    claims: tuple[Claim, ...]
    void: tuple[str, ...]
    is_interrupted: bool


def selfcheck(output: Path, limits: Limits, planted_ms: float = 0.0) -> Selfchecked:
    """Run the stubs and judge the claims. Rows are kept in `output`; whole runs of an earlier try are not run again,
    unless that try came to its verdicts: what it said of the machine then says nothing of now.

    planted_ms: the stubs' first tokens are later by this, which no claim is told: above limits.allow_ms, one must fail;
    below, it may pass for what is allowed. Verdicts of an earlier try (checks.json) are removed first. Raises
    PlanError, or RunError for an output that cannot be used.
    """
    if not 0 <= planted_ms <= 2000:
        raise PlanError(f"--plant-ms is {planted_ms:g}; it must be between 0 and 2000")
    verdicts = output / "checks.json"
    if verdicts.exists():
        verdicts.unlink()
        _forget(output)
    planted = _later(DELAYS, planted_ms, 0.0)
    base = stub_plan(output, planted)
    late = replace(base, output=output / "late", delays=_later(planted, limits.late_ms, limits.late_ms))
    claims: list[Claim] = []
    outcomes = run_series([Step("stubs", base), Step("later stubs", late)], replace=False)
    if _are_ok(outcomes):
        claims += [*_latency_claims(base, limits), *_change_claims(base, late, limits)]
        sustained, outcomes = _sustained_claim(base, limits)
        claims += [] if sustained is None else [sustained]
        write_checks([claim.as_check() for claim in claims], verdicts)
    failed = [outcome for outcome in outcomes if outcome.status != "ok"]
    void = tuple(f"{outcome.directory}: {'; '.join(outcome.reasons)}" for outcome in failed if not outcome.interrupted)
    return Selfchecked(tuple(claims), void, any(outcome.interrupted for outcome in failed))


def _forget(output: Path) -> None:
    for run in (output / "base", output / "late", *output.glob("offered-*")):
        if (run / "run.json").exists():
            shutil.rmtree(run)


def _later(delays: Delays, first_token_ms: float, token_ms: float) -> Delays:
    return msgspec.structs.replace(
        delays,
        first_token_ns=delays.first_token_ns + int(first_token_ms * MS),
        token_ns=delays.token_ns + int(token_ms * MS),
    )


def _are_ok(outcomes: Sequence[Outcome]) -> bool:
    return all(outcome.status == "ok" for outcome in outcomes)


def _latency_claims(plan: Plan, limits: Limits) -> list[Claim]:
    run = Run.load(plan.output)
    turns = known_turns(plan).join(per_turn(run).collect(), on=["trajectory", "turn"], how="left", suffix="_seen")
    agents = known_trajectories(plan)
    agents = agents.join(per_trajectory(run).collect(), on="trajectory", how="left", suffix="_seen")
    with_hits = turns.filter(pl.col("ttft") > DELAYS.first_token_ns)
    end_ns = float(agents.select(pl.col("end").max()).item())
    whole_jct_ns = float(agents.select(pl.col("trajectory_jct").max()).item())
    first, read, token, handover = (
        each / MS for each in (DELAYS.first_token_ns, DELAYS.read_ns, DELAYS.token_ns, DELAYS.handover_ns)
    )

    def claim(id: str, what: str, known_ms: str, errors_ns: pl.Series, allowed_ms: float) -> Claim:
        errors_ms = errors_ns.cast(pl.Float64).fill_null(math.nan).to_numpy() / MS  # null: not recorded
        return never_early_rarely_late(id, what, known_ms, errors_ms, allowed_ms, (str(plan.output),))

    def seen(frame: pl.DataFrame, tag: str) -> pl.Series:
        return frame[f"{tag}_seen"] - frame[tag]

    allow, more_tokens = limits.allow_ms, TOKENS - 1
    return [
        claim("release", "turns are released when due", "0", turns["release"], limits.release_ms),
        claim("read", "read", f"{read:g}", with_hits["read"] - DELAYS.read_ns, allow),
        claim("ttft", "TTFT", f"{first:g}, with hits {first + read:g}", seen(turns, "ttft"), allow),
        claim("ttst", "TTST", f"{handover + token:g}", seen(turns, "ttst"), allow),
        claim("tpot", "TPOT", f"{token + handover / more_tokens:g}", seen(turns, "tpot"), allow / more_tokens),
        claim(
            "jct", f"an agent's {TURNS} turns", f"{whole_jct_ns / MS:g}", seen(agents, "trajectory_jct"), TURNS * allow
        ),
        claim(
            "end",
            "end of the run",
            f"{end_ns / MS:,.0f}",
            pl.Series([(summary(run)["jct"] or math.nan) - end_ns]),
            TURNS * allow,
        ),
    ]


def _change_claims(base: Plan, late: Plan, limits: Limits) -> list[Claim]:
    """By medians: a change of the stubs' delays is one of all turns."""
    before, after = (per_turn(Run.load(plan.output)).collect() for plan in (base, late))
    claims: list[Claim] = []
    for tag in ("ttft", "tpot"):
        seen_ms = (np.median(after[tag].to_numpy()) - np.median(before[tag].to_numpy())) / MS
        error_ms = float(seen_ms - limits.late_ms)
        claims.append(
            Claim(
                id=f"change.{tag}",
                what=f"{tag.upper()} of stubs that are later, more than of those that are not (medians)",
                known=f"{limits.late_ms:g}",
                value=error_ms,
                median=error_ms,
                least=error_ms,
                low=-limits.late_ms / 3,
                high=limits.late_ms / 3,
                unit="ms",
                rows=(str(base.output), str(late.output)),
            )
        )
    return claims


def _sustained_claim(base: Plan, limits: Limits) -> tuple[Claim | None, list[Outcome]]:
    """Offers twice as many turns per second, and again, until they are released late. None: a run was not whole."""
    sustained = 0.0
    directories: list[str] = []
    outcomes: list[Outcome] = []
    for doubling in range(_DOUBLINGS + 1):
        offered = limits.turns_per_s * 2**doubling
        plan = replace(
            base,
            output=base.output.parent / f"offered-{offered:g}",
            rate_per_s=offered / TURNS,
            agents=math.ceil(offered / TURNS * _OFFERED_S),
        )
        outcomes = run_series([Step(f"{offered:g} turns/s offered", plan)], replace=False)
        if not _are_ok(outcomes):
            return None, outcomes
        directories.append(str(plan.output))
        release = per_turn(Run.load(plan.output)).select(pl.col("release").quantile(QUANTILE, "equiprobable"))
        if release.collect().item() > limits.lag_ms * MS:
            break
        sustained = offered
    claim = Claim(
        id="sustained",
        what=f"turns per second before releases lag by {limits.lag_ms:g} ms (p99)",
        known="",
        value=sustained,
        median=sustained,
        least=sustained,
        low=limits.turns_per_s,
        high=math.inf,
        unit="turns/s",
        rows=tuple(directories),
    )
    return claim, outcomes
