"""Wires a run: trace and cluster -> feed, scheduler, engine -> main loop (`core/loop.py`) -> run directory."""

from __future__ import annotations

import shutil
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from dualpath.cluster_file import ClusterFile, load_cluster
from dualpath.core.arms import ARMS, Arm
from dualpath.core.cluster import Cluster
from dualpath.core.errors import ClusterError, RunError, StoreError
from dualpath.core.feed import Feed
from dualpath.core.hops import BytePrediction
from dualpath.core.loop import run
from dualpath.core.scheduler import Scheduler
from dualpath.engine.backend import EngineBackend
from dualpath.engine.content import Contents
from dualpath.engine.devices import best_device, gpu_names
from dualpath.engine.direct_io import filesystem_of
from dualpath.engine.geometry import store_layout
from dualpath.engine.messages import Summary
from dualpath.engine.meter import BUCKET_NS
from dualpath.engine.models.checkpoint import check_weights
from dualpath.engine.network import network_name
from dualpath.engine.store import create_store, scan
from dualpath.hosts import as_facts, check_memory, listening, remote_nodes
from dualpath.plan import INTERRUPTED, Outcome, Plan, facts_of, make_directory, reason_of, starts_of
from dualpath.provenance import stand_ins
from dualpath.results.recorder import Recorder, write_json
from dualpath.trace.reader import TraceFile
from dualpath.trace.starts import Workload
from dualpath.warm import warm_parts, warm_up


def replay(plan: Plan, progress: Callable[[int, int], None]) -> Outcome:
    """Replay a trace through the real engine and leave a run directory.

    progress(turns ended, turns planned). Bad input raises a DualpathError before anything runs; a failure during
    the run, or Ctrl-C, keeps what was recorded and marks the run void.
    """
    with TraceFile.open(plan.trace) as trace:
        return _replay(plan, trace, progress)


def _replay(plan: Plan, trace: TraceFile, progress: Callable[[int, int], None]) -> Outcome:
    arm = ARMS[plan.arm]
    cluster_file = load_cluster(plan.cluster)
    cluster = cluster_file.cluster
    if cluster_file.checkpoint is not None:
        check_weights(cluster_file.checkpoint)
    workload = Workload.of(starts_of(plan, trace))
    cluster.check_fits(workload.largest_prompt_tokens, workload.largest_total_tokens, arm.layerwise)
    check_engine(cluster)
    elsewhere, listens = remote_nodes(plan, cluster), listening(plan)
    if not plan.null:
        check_memory(
            cluster, [engine for engine in range(cluster.num_engines) if cluster.node_of(engine) not in elsewhere]
        )
    store_directory = _make_directories(plan)
    layout = store_layout(cluster)
    create_store(store_directory, layout)
    _check_space(store_directory, workload, cluster, arm)

    feed = Feed(starts_of(plan, trace), plan.gap_factor)
    feed.take_arrived(0)  # now: read when the clock runs, the trace would make the first turns late
    scheduler = Scheduler(cluster, arm)
    contents = Contents(cluster, feed.trajectory, plan.seed, moves_kv=arm.moves_kv)
    contents.known(scan(store_directory, layout))
    facts = _facts(plan, cluster_file, trace, workload, store_directory)
    write_json(plan.output / "run.json", {**facts, "status": "void", "reasons": ["the run has not ended"]})
    warm_up(cluster, arm)  # last: with all that was imported and read

    backend = EngineBackend(
        cluster,
        arm,
        scheduler.flights,
        contents.live,
        contents.stored,
        store_directory=store_directory,
        log_directory=plan.output,
        seed=plan.seed,
        deterministic=plan.deterministic,
        verify=plan.verify,
        durable=cluster_file.durable,
        null=plan.null,
        delays=plan.delays,
        checkpoint=cluster_file.checkpoint,
        network=plan.network,
        listening=listens,
        remote_nodes=elsewhere,
    )
    recorder = Recorder(
        plan.output,
        feed.trajectory,
        arm,
        BytePrediction(cluster, arm),
        scheduler.flights,
        lambda ended: progress(ended, workload.turns),
    )
    failures: list[BaseException] = []
    started_s = time.monotonic()
    busy_ns = 0
    with backend:
        try:
            backend.start()
            started_s = time.monotonic()
            busy_from_ns = time.process_time_ns()
            run(feed, contents.admit, scheduler, backend, recorder, time.perf_counter_ns)
            busy_ns = time.process_time_ns() - busy_from_ns
        except (KeyboardInterrupt, Exception) as failure:  # the run's boundary: whatever it was, the rows are kept
            failures.append(failure)
        wall_s = time.monotonic() - started_s
        with _uninterrupted():
            silent = backend.finish()
            failures = failures or [*silent]
            backend.close()
            if plan.store is None:
                shutil.rmtree(store_directory)  # first: on a full disk the rows need its room
            recorder.close(*_rows(backend.summaries))
    reasons = [reason_of(failure) for failure in failures]
    if failures and INTERRUPTED not in reasons:  # where it happened, in which process: for whoever mends it
        lines = [line for failure in failures for line in traceback.format_exception(failure)]
        (plan.output / "error.log").write_text("".join(lines))
    if recorder.ended < workload.turns and not reasons:
        reasons.append(f"{workload.turns - recorder.ended} turns did not end")
    facts["storage"].update(_storage_access(backend.summaries))
    networks = [each.network for each in backend.summaries if each.network is not None]
    facts["network"], facts["hosts"] = msgspec.to_builtins(networks), as_facts(backend.hosts)
    status: Literal["ok", "void"] = "void" if reasons else "ok"
    facts.update(
        status=status,
        reasons=reasons,
        wall_s=wall_s,
        coordinator={"busy_ns": busy_ns, "decision_ns": recorder.decision_ns, "turns": recorder.ended},
    )
    write_json(plan.output / "run.json", facts)
    jct_s = recorder.last_end_ns / 1e9 if status == "ok" else None
    warnings = [each.note for each in networks if each.note]
    if facts["storage"]["direct_io"] is False:
        warnings.append(f"storage was read THROUGH THE PAGE CACHE: {facts['storage']['note']}")
    return Outcome(plan.output, status, tuple(reasons), recorder.ended, workload.turns, jct_s, "; ".join(warnings))


def _make_directories(plan: Plan) -> Path:
    """The run's directory, new, and the path of its store."""
    store = plan.store or plan.output / "store"
    if plan.store is None and store.exists() and not (plan.output / "run.json").exists():
        raise RunError(f"{store}: exists already, and a run deletes its store; choose another -o, or delete it")
    make_directory(plan)
    return store


def check_engine(cluster: Cluster) -> None:
    """Refuse what only the simulator can run."""
    if cluster.model.kv_dtype == "fp8":
        raise ClusterError(
            f'{cluster.name}: model {cluster.model.name} with kv_dtype = "fp8" is simulated only (dualpath simulate); '
            'for the real engine set kv_dtype = "bf16", "fp16" or "fp32": it keeps KV in the data type of the weights'
        )
    if cluster.pass_engines > 1:
        raise ClusterError(f"{cluster.name}: [prefill] pass_engines = {cluster.pass_engines} is simulated only; use 1")
    if not cluster.constants.prefill_tokens_per_s or not cluster.constants.attention_ns_per_pair:
        raise ClusterError(
            f"{cluster.name}: [scheduler] needs prefill_tokens_per_s and attention_ns_per_pair for the real engine"
        )


def _check_space(directory: Path, workload: Workload, cluster: Cluster, arm: Arm) -> None:
    """Refuse at once what would end in a full disk."""
    need_bytes = cluster.blocks(workload.new_tokens) * cluster.block_bytes  # at most: partly filled blocks are not kept
    free_bytes = shutil.disk_usage(directory).free
    if arm.moves_kv and need_bytes > free_bytes:
        raise StoreError(
            f"{directory}: {free_bytes / 2**20:,.0f} MiB free, but the trace's KV takes up to "
            f"{need_bytes / 2**20:,.0f} MiB ({cluster.model.name}: {cluster.model.kv_bytes:,} bytes per token); free "
            "space, choose another --store, or shrink the trace with --agents, --scale or --max-len"
        )


def _facts(
    plan: Plan, cluster_file: ClusterFile, trace: TraceFile, workload: Workload, store_directory: Path
) -> dict[str, Any]:
    """run.json, but for what the run itself decides."""
    filesystem, cluster = filesystem_of(store_directory), cluster_file.cluster
    facts = facts_of(plan, cluster, trace, workload)
    return {
        **facts,
        "host": {**facts["host"], "gpus": [] if plan.null else gpu_names()},
        "bucket_ns": BUCKET_NS,
        "warm_up": warm_parts(null=plan.null, on_gpu=best_device() != "cpu"),
        "storage": {"directory": str(store_directory), "filesystem": filesystem, "durable": cluster_file.durable},
        "stand_ins": stand_ins(
            cluster,
            filesystem,
            null=plan.null,
            answers_late=plan.delays is not None,
            network=network_name(plan.network),
            has_weights=cluster_file.checkpoint is not None,
            remote=len(remote_nodes(plan, cluster)),
            device=best_device(),
        ),
    }


def _storage_access(summaries: Sequence[Summary]) -> dict[str, Any]:
    """Whether storage was read past the page cache (None: it was not read); where not, why."""
    found = [summary.reads_direct for summary in summaries if summary.reads_direct is not None]
    notes = {summary.reads_note for summary in summaries} - {""}
    return {"direct_io": all(found) if found else None, "note": "; ".join(sorted(notes))}


def _rows(summaries: Sequence[Summary]) -> tuple[list[dict[str, Any]], dict[str, Sequence[dict[str, Any]]]]:
    """Rows of the table `links`, and of those that not every run has."""
    links: list[dict[str, Any]] = []
    blocks: list[dict[str, Any]] = []
    collectives: list[dict[str, Any]] = []
    for summary in sorted(summaries, key=lambda summary: summary.engine):
        links += [msgspec.to_builtins(row) for row in summary.links]
        blocks += [
            {**msgspec.structs.asdict(block), "key": block.key.hex(), "engine": summary.engine}
            for block in summary.blocks
        ]
        collectives += [msgspec.to_builtins(row) for row in summary.collectives]
    return links, {"blocks": blocks, "collectives": collectives}


class _uninterrupted:
    """Ctrl-C and its like wait while rows are written."""

    def __enter__(self) -> None:
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        self._previous = {number: signal.signal(number, signal.SIG_IGN) for number in signals}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
