"""Wires a simulated run: trace, cluster and profile -> feed, simulator -> run directory; replay.py for real."""

from __future__ import annotations

import itertools
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from dualpath.cluster_file import load_cluster
from dualpath.compile_cache import source_digest
from dualpath.core.arms import ARMS
from dualpath.core.cluster import Cluster
from dualpath.core.errors import ClusterError, PlanError
from dualpath.core.feed import Feed
from dualpath.core.known_models import MODELS
from dualpath.plan import INTERRUPTED, Outcome, Plan, facts_of, make_directory, reason_of, starts_of
from dualpath.results.recorder import decision_row, write_json, write_predicted
from dualpath.results.table_writer import TableWriter
from dualpath.results.tables import TABLES
from dualpath.sim.profile import PROFILES, Constant, Profile, load_profile, profile_of
from dualpath.sim.simulator import Rows, Simulator, Sinks, check
from dualpath.sim.tables import link_table, pass_table, turn_table, unfinished_rows
from dualpath.sim.witness import Witness
from dualpath.trace.reader import TraceFile
from dualpath.trace.starts import Workload


def simulate(plan: Plan, progress: Callable[[int, int], None]) -> Outcome:
    """Replay a trace in the simulator and leave a run directory.

    progress(turns ended, turns planned). Bad input raises a DualpathError before anything runs; Ctrl-C keeps what was
    simulated and marks the run void.
    """
    cluster, profile, constants = simulated_cluster(plan)
    with TraceFile.open(plan.trace) as trace:
        workload = Workload.of(starts_of(plan, trace))
        cluster.check_fits(workload.largest_prompt_tokens, workload.largest_total_tokens, ARMS[plan.arm].layerwise)
        make_directory(plan)
        facts: dict[str, Any] = {
            **facts_of(plan, cluster, trace, workload),
            "code": source_digest(),
            "profile": {name: msgspec.to_builtins(constant) for name, constant in constants.items()},
            "bucket_ns": 1,
            "warm_up": "nothing: what work costs does not depend on what ran before",
            "stand_ins": [("cluster", "engines, NICs, storage", "simulated: sim/machine.py, constants in profile")],
        }
        write_json(plan.output / "run.json", {**facts, "status": "void", "reasons": ["the run has not ended"]})
        return _simulate(plan, cluster, profile, trace, workload, facts, progress)


def _simulate(
    plan: Plan,
    cluster: Cluster,
    profile: Profile,
    trace: TraceFile,
    workload: Workload,
    facts: dict[str, Any],
    progress: Callable[[int, int], None],
) -> Outcome:
    arm = ARMS[plan.arm]
    turns = TableWriter(plan.output / "turns.parquet", TABLES["turns"])
    passes = TableWriter(plan.output / "passes.parquet", TABLES["passes"])
    ended = 0

    def take_turns(rows: Rows, feed: Feed) -> None:
        nonlocal ended
        turns.append_table(turn_table(rows, feed, arm))
        ended += len(rows)

    decisions = TableWriter(plan.output / "decisions.parquet", TABLES["decisions"])
    index = itertools.count()
    witness = Witness(
        cluster,
        arm,
        lambda event, commands: decisions.append(decision_row(next(index), event, commands, None)),
    )
    feed = Feed(starts_of(plan, trace), plan.gap_factor, cluster.block_tokens)
    sinks = Sinks(
        take_turns, lambda rows: passes.append_table(pass_table(rows)), witness.take if plan.decisions else None
    )
    simulator = Simulator(cluster, arm, profile, feed, sinks)
    started_s = time.monotonic()
    reasons: list[str] = []
    try:
        while simulator.run_slice():
            progress(ended, workload.turns)
    except (KeyboardInterrupt, Exception) as failure:  # the run's boundary: whatever it was, the rows are kept
        reasons.append(reason_of(failure))
        if reasons[0] != INTERRUPTED:
            (plan.output / "error.log").write_text("".join(traceback.format_exception(failure)))
        simulator.hand_out()
        turns.append_table(turn_table(unfinished_rows(simulator.parts), feed, arm, ended=False))
    wall_s = time.monotonic() - started_s
    links = TableWriter(plan.output / "links.parquet", TABLES["links"])
    links.append_table(link_table(cluster, simulator.parts.links))
    for table in (turns, passes, links, decisions):
        table.close()
    if plan.decisions:
        write_predicted(plan.output, witness.prediction)
    status: Literal["ok", "void"] = "void" if reasons else "ok"
    counts = simulator.parts.counts[0]
    facts.update(
        status=status,
        reasons=reasons,
        wall_s=wall_s,
        bucket_ns=int(simulator.parts.links.bucket_ns[0]),
        simulated={"events": int(counts.events), "turns": ended},
    )
    write_json(plan.output / "run.json", facts)
    jct_s = int(counts.last_end_ns) / 1e9 if status == "ok" else None
    return Outcome(plan.output, status, tuple(reasons), ended, workload.turns, jct_s)


def simulated_cluster(plan: Plan) -> tuple[Cluster, Profile, dict[str, Constant]]:
    """The plan's cluster with the profile's constants, the plan's own instead of some of them.

    Raises ClusterError, or PlanError for a model or constant that is unknown.
    """
    file = load_cluster(plan.cluster)
    used = plan.profile or plan.model or file.profile
    if used is None:
        raise ClusterError(
            f'{plan.cluster}: no profile, so the simulator does not know what work costs; add profile = "...", or give '
            "--profile (`dualpath calibrate` measures one for this machine)"
        )
    cluster = file.cluster if plan.model is None else with_model(file.cluster, plan.model)
    _, constants = load_profile(used, Path() if plan.profile else plan.cluster.parent)
    for name, value, is_factor in (
        *((name, value, False) for name, value in plan.constants),
        *((name, factor, True) for name, factor in plan.factors),
    ):
        option = "--times" if is_factor else "--set"
        if not 0 <= value < 1e15:
            raise PlanError(f"{option} {name} = {value} is not between 0 and 1e15")
        if name in _CLUSTER_CONSTANTS:
            get, put = _CLUSTER_CONSTANTS[name]
            cluster = put(cluster, get(cluster) * value if is_factor else value)
        elif name in Profile.__dataclass_fields__:
            old = constants[name].value if name in constants else 0.0
            constants[name] = Constant(old * value if is_factor else value, "given")
        else:
            known = ", ".join([*Profile.__dataclass_fields__, *_CLUSTER_CONSTANTS])
            raise PlanError(f"{option} {name}: no such constant; known: {known}")
    profile = profile_of(constants, used)
    check(cluster, profile)
    return with_profile(cluster, profile), profile, constants


def with_model(cluster: Cluster, name: str) -> Cluster:
    """The same machines with another model: what the cluster file says of compute was the old model's, and storage
    reads the same bytes, so other tokens, per second. Raises PlanError."""
    if name not in MODELS:
        simulated = ", ".join(model for model in MODELS if (PROFILES / f"{model}.toml").exists())
        raise PlanError(f"--model {name!r} is unknown; models with a profile of their own: {simulated}")
    model, own = MODELS[name], cluster.constants
    if model == cluster.model:
        return cluster
    constants = replace(
        own,
        read_tokens_per_s=own.read_tokens_per_s * cluster.model.kv_bytes / model.kv_bytes,
        prefill_tokens_per_s=0.0,
        attention_ns_per_pair=0.0,
        attention_ns_per_context=0.0,
    )
    return replace(cluster, model=model, constants=constants)


def with_profile(cluster: Cluster, profile: Profile) -> Cluster:
    """The scheduler predicts with the constants that the simulated machine has: it is profiled beforehand (A.4)."""
    own = cluster.constants
    return replace(
        cluster,
        constants=replace(
            own,
            prefill_tokens_per_s=own.prefill_tokens_per_s or profile.prompt_tokens_per_s,
            attention_ns_per_pair=own.attention_ns_per_pair or profile.attention_ns_per_pair,
            attention_ns_per_context=own.attention_ns_per_context or profile.attention_us_per_context * 1e3,
        ),
    )


_Constant = tuple[Callable[[Cluster], float], Callable[[Cluster, float], Cluster]]  # how to read and replace one


def _memory(field: str) -> _Constant:
    return (
        lambda cluster: getattr(cluster.memory, field) / 1e9,
        lambda cluster, value: replace(cluster, memory=replace(cluster.memory, **{field: int(value * 1e9)})),
    )


def _rule(field: str, unit: float = 1.0) -> _Constant:
    return (
        lambda cluster: getattr(cluster.constants, field) / unit,
        lambda cluster, value: replace(cluster, constants=replace(cluster.constants, **{field: value * unit})),
    )


_CLUSTER_CONSTANTS: dict[str, _Constant] = {
    "prefill_buffer_gb": _memory("prefill_buffer_bytes"),
    "decode_buffer_gb": _memory("decode_buffer_bytes"),
    "prefill_hbm_gb": _memory("prefill_hbm_bytes"),
    "decode_hbm_gb": _memory("decode_hbm_bytes"),
    "snic_gb_per_s": (
        lambda cluster: (cluster.snic_bytes_per_s or 0.0) / 1e9,
        lambda cluster, value: replace(cluster, snic_bytes_per_s=value * 1e9),
    ),
    "cnic_gb_per_s": (
        lambda cluster: (cluster.cnic_bytes_per_s or 0.0) / 1e9,
        lambda cluster, value: replace(cluster, cnic_bytes_per_s=value * 1e9),
    ),
    "quota_ms": _rule("quota_s", 1e-3),
    "alpha_s": _rule("alpha_s"),
    "beta_s": _rule("beta_s"),
    "report_s": _rule("report_s"),
    "pass_engines": (
        lambda cluster: cluster.pass_engines,
        lambda cluster, value: replace(cluster, pass_engines=int(value)),
    ),
}
