"""What dual-path loading would bring around a cluster: simulates every point of a grid, keeps a row per point and arm.

    trace, cluster file -> grid -> runs in worker processes, in memory -> rows (Parquet) -> findings -> table, page

What is there already is kept: an interrupted sweep goes on where it stopped, and a finished one can be given more
points or arms.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from dualpath.compile_cache import source_digest
from dualpath.core.arms import ARMS
from dualpath.core.cluster import Cluster
from dualpath.core.errors import ClusterError, PlanError, RunError
from dualpath.core.feed import Start
from dualpath.plan import Plan, describe, facts_of, reason_of, starts_of
from dualpath.report.whatif import write_whatif
from dualpath.results.metrics import summary_of
from dualpath.results.points import (
    BASELINE,
    NUMBERS,
    SCHEMA,
    Point,
    Row,
    Swept,
    findings_of,
    point_of,
    read_points,
    write_points,
)
from dualpath.results.recorder import write_json
from dualpath.results.slo import parse_slo
from dualpath.shares import Machine, run_in_memory, shares
from dualpath.sim.profile import Profile
from dualpath.sim.simulator import check
from dualpath.simulate import simulated_cluster
from dualpath.trace.reader import TraceFile
from dualpath.trace.starts import Workload
from dualpath.whatif_grid import cluster_at, grid, point_at
from dualpath.workers import results_of

DEFAULT_ARMS = (BASELINE, "dualpath", "split", "oracle")
ROWS, FACTS = "points.parquet", "sweep.json"
_SAVE_EVERY_S = 1.0
_SAID = {"code": "version of the simulator", "feed": "way of arriving", "selection": "choice of trajectories"}


@dataclass(frozen=True, slots=True)
class Sweep:
    """All that decides a sweep. Lists are as on the command line; None: what lies around the cluster."""

    plan: Plan  # trace, cluster, model and load; its arm and output are not used
    arms: tuple[str, ...] = DEFAULT_ARMS
    nodes: str | None = None
    snic: str | None = None
    cnic: str | None = None
    slo: str | None = None
    output: Path | None = None  # None: nothing is kept
    jobs: int = 2

    def __post_init__(self) -> None:
        """Raises PlanError."""
        if self.slo is not None and self.plan.mode == "offline":
            raise PlanError(f"--slo {self.slo} without arrivals: it limits latencies under a load; give --rate, too")


class Task(NamedTuple):
    """One run."""

    point: Point
    arm: str
    plan: Plan
    cluster: Cluster  # as its file has it, with the profile's constants
    profile: Profile
    largest: tuple[int, int]  # prompt, prompt + output tokens of a request


def whatif(sweep: Sweep, progress: Callable[[int, int], None]) -> Swept:
    """Simulate what is not there yet. progress(runs done, runs in all).

    Bad input raises a DualpathError before anything runs; Ctrl-C keeps what is done. A point that cannot serve the
    trace is a row that says so.
    """
    plan = sweep.plan
    slo = None if sweep.slo is None else parse_slo(sweep.slo)
    cluster, profile, constants = simulated_cluster(plan)
    points = grid(cluster, sweep.nodes, sweep.snic, sweep.cnic)
    arms = tuple(arm for arm in ARMS if arm in sweep.arms or arm == BASELINE)
    with TraceFile.open(plan.trace) as trace:
        workload = Workload.of(starts_of(plan, trace))
        largest = workload.largest_prompt_tokens, workload.largest_total_tokens
        cluster.check_fits(*largest, ARMS[BASELINE].layerwise)  # memory is the same at every point
        facts = {
            **facts_of(plan, cluster, trace, workload),
            "code": source_digest(),
            "profile": {name: msgspec.to_builtins(constant) for name, constant in constants.items()},
        }
    rows = {} if sweep.output is None else _rows_of(sweep.output, facts, sorted({*describe(plan, cluster)} - {"arm"}))
    _share_still(rows, points, arms)
    tasks = [Task(point, arm, plan, cluster, profile, largest) for point, arm in _missing(rows, points, arms)]
    is_interrupted = False
    wanted = len(points) * len(arms)

    def num_done() -> int:
        return sum((point, arm) in rows for point in points for arm in arms)

    saved_s = time.monotonic()
    with closing(results_of(run_task, tasks, sweep.jobs)) as results:
        try:
            progress(num_done(), wanted)
            for row in results:
                rows[point_of(row), row["arm"]] = row
                _share_still(rows, points, arms)
                progress(num_done(), wanted)
                if sweep.output is not None and time.monotonic() > saved_s + _SAVE_EVERY_S:
                    write_points(list(rows.values()), sweep.output / ROWS)
                    saved_s = time.monotonic()
        except KeyboardInterrupt:
            is_interrupted = True
        finally:
            if sweep.output is not None:
                write_points(list(rows.values()), sweep.output / ROWS)
    measure: Literal["jct", "ttft"] = "jct" if plan.mode == "offline" else "ttft"
    findings = findings_of(rows.values(), points, arms, measure, slo)
    swept = Swept(findings, point_at(cluster), arms, measure, slo, facts, is_interrupted)
    if sweep.output is not None:
        write_whatif(swept, sweep.output)
    return swept


Rows = dict[tuple[Point, str], Row]


def _missing(rows: Rows, points: Sequence[Point], arms: Sequence[str]) -> Iterator[tuple[Point, str]]:
    """One that moves no KV is simulated at the first point of its shape."""
    still: set[tuple[int, int, str]] = set()
    for point in points:
        for arm in arms:
            shape = (point.prefill_nodes, point.decode_nodes, arm)
            if (point, arm) in rows or shape in still:
                continue
            if not ARMS[arm].moves_kv:
                still.add(shape)
            yield point, arm


def _share_still(rows: Rows, points: Sequence[Point], arms: Sequence[str]) -> None:
    """An arm that moves no KV does not know how fast links are: what it did at one point of a shape it does at all."""
    for arm in arms:
        if ARMS[arm].moves_kv:
            continue
        known = {(point.prefill_nodes, point.decode_nodes): row for (point, its), row in rows.items() if its == arm}
        for point in points:
            row = known.get((point.prefill_nodes, point.decode_nodes))
            if row is not None and (point, arm) not in rows:
                rows[point, arm] = {**row, **point._asdict()}


def _rows_of(output: Path, facts: dict[str, Any], same: Sequence[str]) -> Rows:
    """What the folder holds of this very sweep; makes it. Raises RunError where it holds something else."""
    described = json.loads(json.dumps(facts, default=str))
    try:
        if (output / FACTS).exists():
            found = json.loads((output / FACTS).read_text())
            differs = [key for key in (*same, "code", "profile") if found.get(key) != described.get(key)]
            if found.get("trace", {}).get("sha256") != described["trace"]["sha256"]:
                differs.insert(0, "trace")
            if differs:
                what = ", ".join(_SAID.get(key, key) for key in differs)
                raise RunError(f"{output}: holds a sweep with another {what}; choose another -o, or delete it")
        elif output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise RunError(f"{output}: exists and holds no sweep; choose another -o")
        else:
            output.mkdir(parents=True, exist_ok=True)
            write_json(output / FACTS, described)
    except (OSError, ValueError) as error:
        raise RunError(f"{output}: cannot hold a sweep ({error}); choose another -o") from None
    rows = (row for row in read_points(output / ROWS) if row["status"] != "void")  # what failed is tried again
    return {(point_of(row), row["arm"]): row for row in rows}


@lru_cache(maxsize=1)
def _starts(plan: Plan) -> tuple[Start, ...]:
    """The trace, once for all runs of a process."""
    with TraceFile.open(plan.trace) as trace:
        return tuple(starts_of(plan, trace))


def run_task(task: Task) -> Row:
    """One run, as a row: what goes wrong is its status and error, and the sweep goes on."""
    row: Row = {**dict.fromkeys(SCHEMA.names()), **task.point._asdict(), "arm": task.arm, "status": "ok"}
    try:
        cluster, arm = cluster_at(task.cluster, task.point), ARMS[task.arm]
        check(cluster, task.profile)
        cluster.check_fits(*task.largest, arm.layerwise)
        starts, machine = _starts(task.plan), Machine(cluster, task.profile, arm, task.plan.gap_factor)
        ran = run_in_memory(machine, starts)
        found = summary_of(ran.turns.lazy())
        row.update({f"{tag}_ns": found[tag] for tag in NUMBERS})
        row.update({f"share_{candidate}": share for candidate, share in shares(machine, ran, starts).items()})
        row.update(turns=ran.turns.height, events=ran.events)
    except ClusterError as error:
        row.update(status="unfit", error=str(error))
    except Exception as failure:  # the run's boundary
        row.update(status="void", error=reason_of(failure))
    return row
