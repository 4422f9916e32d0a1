"""Wires a run: trace and cluster -> feed, scheduler, engine -> main loop (`core/loop.py`) -> run directory."""

from __future__ import annotations

import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import msgspec

from dualpath.cluster_file import load_cluster
from dualpath.core.arms import ARMS, Arm
from dualpath.core.cluster import Cluster
from dualpath.core.errors import ClusterError, PlanError, RunError, StoreError
from dualpath.core.feed import Feed, Start
from dualpath.core.hops import BytePrediction
from dualpath.core.loop import run
from dualpath.core.scheduler import Scheduler
from dualpath.doctor import memory_bytes
from dualpath.engine.backend import EngineBackend
from dualpath.engine.content import Contents
from dualpath.engine.direct_io import filesystem_of
from dualpath.engine.geometry import buffer_bytes, store_layout
from dualpath.engine.messages import Summary
from dualpath.engine.meter import BUCKET_NS
from dualpath.engine.store import create_store, scan
from dualpath.provenance import provenance, stand_ins
from dualpath.results.recorder import Recorder, write_json
from dualpath.trace import starts
from dualpath.trace.reader import TraceFile
from dualpath.trace.select import select
from dualpath.trace.starts import FeedMode, Workload

_INTERRUPTED = "interrupted (Ctrl-C)"


@dataclass(frozen=True, slots=True)
class Plan:
    """All that decides a run."""

    trace: Path
    cluster: Path
    arm: str
    output: Path
    agents: int | None = None  # None: as many as the trace has
    mode: FeedMode = "offline"
    rate_per_s: float | None = None  # online: trajectories per second
    gap_scale: float = 0.0
    seed: int = 0
    repeat: int = 0
    scale: Fraction = Fraction(1)
    max_len: int | None = None
    deterministic: bool = False
    verify: bool = False
    null: bool = False
    store: Path | None = None  # None: OUTPUT/store, deleted at the end

    def __post_init__(self) -> None:
        """Raises PlanError."""
        if self.arm not in ARMS:
            raise PlanError(f"arm {self.arm!r} is unknown; the arms are {', '.join(ARMS)}")
        if self.mode == "online" and (self.rate_per_s is None or not 1e-9 < self.rate_per_s < 1e9):
            raise PlanError(f"--rate is {self.rate_per_s}; it must be between 1e-9 and 1e9 trajectories per second")
        if not 0 <= self.gap_scale < 1e9:
            raise PlanError(f"--gap-scale is {self.gap_scale}; it must be between 0 and 1e9")
        if not 0 <= self.seed < 2**63:
            raise PlanError(f"--seed is {self.seed}; it must be between 0 and 2**63 - 1")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    directory: Path
    status: Literal["ok", "void"]
    reasons: tuple[str, ...]
    turns: int
    turns_planned: int
    jct_s: float | None
    warning: str = ""  # what makes the result less than it seems

    @property
    def interrupted(self) -> bool:
        return _INTERRUPTED in self.reasons


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
    workload = Workload.of(_starts(plan, trace))
    cluster.check_fits(workload.largest_prompt_tokens, workload.largest_total_tokens, arm.layerwise)
    if not plan.null:
        _check_memory(cluster)
    store_directory = _make_directories(plan)
    layout = store_layout(cluster)
    create_store(store_directory, layout)
    _check_space(store_directory, workload, cluster, arm)

    feed = Feed(_starts(plan, trace), plan.gap_scale)
    scheduler = Scheduler(cluster, arm)
    contents = Contents(cluster, feed.trajectory, plan.seed, moves_kv=arm.moves_kv)
    contents.known(scan(store_directory, layout))
    facts = _facts(plan, cluster, trace, workload, store_directory, cluster_file.durable)
    write_json(plan.output / "run.json", {**facts, "status": "void", "reasons": ["the run has not ended"]})

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
    )
    recorder = Recorder(
        plan.output,
        feed.trajectory,
        arm,
        BytePrediction(cluster, arm),
        scheduler.flights,
        _encode,
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
    reasons = [_reason(failure) for failure in failures]
    if failures and _INTERRUPTED not in reasons:  # where it happened, in which process: for whoever mends it
        lines = [line for failure in failures for line in traceback.format_exception(failure)]
        (plan.output / "error.log").write_text("".join(lines))
    if recorder.ended < workload.turns and not reasons:
        reasons.append(f"{workload.turns - recorder.ended} turns did not end")
    facts["storage"].update(_storage_access(backend.summaries))
    status: Literal["ok", "void"] = "void" if reasons else "ok"
    facts.update(
        status=status,
        reasons=reasons,
        wall_s=wall_s,
        coordinator={"busy_ns": busy_ns, "decision_ns": recorder.decision_ns, "turns": recorder.ended},
    )
    write_json(plan.output / "run.json", facts)
    jct_s = recorder.last_end_ns / 1e9 if status == "ok" else None
    warning = ""
    if facts["storage"]["direct_io"] is False:
        warning = f"storage was read THROUGH THE PAGE CACHE: {facts['storage']['note']}"
    return Outcome(plan.output, status, tuple(reasons), recorder.ended, workload.turns, jct_s, warning)


def _starts(plan: Plan, trace: TraceFile) -> Iterator[Start]:
    """Which trajectories start when; read from the trace as they are asked for."""
    families = select(trace, plan.agents, plan.seed, scale=plan.scale, max_len=plan.max_len)
    match plan.mode:
        case "offline":
            return starts.offline(families)
        case "online":
            assert plan.rate_per_s is not None, "Plan saw to it"
            return starts.online(families, plan.rate_per_s, plan.seed)
        case "recorded":
            return starts.recorded(families)


def _make_directories(plan: Plan) -> Path:
    """The run's directory, new, and the path of its store."""
    store = plan.store or plan.output / "store"
    if (plan.output / "run.json").exists():
        raise RunError(f"{plan.output}: holds a run already; choose another -o, or delete it")
    if plan.store is None and store.exists():
        raise RunError(f"{store}: exists already, and a run deletes its store; choose another -o, or delete it")
    try:
        plan.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{plan.output}: cannot be created: {error.strerror}; choose another -o") from None
    return store


def _check_memory(cluster: Cluster) -> None:
    """Refuse at once what would end with the kernel killing some process."""
    need_bytes = sum(buffer_bytes(cluster, engine) for engine in range(cluster.num_engines))
    if not Path("/proc/driver/nvidia").exists():  # host memory stands in for HBM
        memory = cluster.memory
        need_bytes += cluster.num_prefill * memory.prefill_hbm_bytes + cluster.num_decode * memory.decode_hbm_bytes
    free_bytes, _ = memory_bytes()
    if need_bytes > free_bytes:
        raise ClusterError(
            f"{cluster.name}: the memories of its {cluster.num_engines} engines take {need_bytes / 2**30:,.1f} GiB, "
            f"this machine has {free_bytes / 2**30:,.1f} GiB free; lower prefill_buffer, decode_buffer, "
            "prefill_hbm or decode_hbm"
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


def describe(plan: Plan, cluster: Cluster) -> dict[str, Any]:
    """What a run is a run of, as in run.json; the trace's own facts apart."""
    resolved: dict[str, Any] = msgspec.to_builtins(cluster)
    resolved.update(
        model=cluster.model.name,
        model_shape=msgspec.to_builtins(cluster.model),
        kv_bytes_per_token=cluster.model.kv_bytes,
    )
    return {
        "backend": "null" if plan.null else "engine",
        "arm": plan.arm,
        "cluster": resolved,
        "feed": {"mode": plan.mode, "rate_per_s": plan.rate_per_s, "gap_scale": plan.gap_scale, "seed": plan.seed},
        "selection": {"agents": plan.agents, "scale": str(plan.scale), "max_len": plan.max_len},
        "seed": plan.seed,
        "repeat": plan.repeat,
        "deterministic": plan.deterministic,
        "verify": plan.verify,
    }


def _facts(
    plan: Plan, cluster: Cluster, trace: TraceFile, workload: Workload, store_directory: Path, durable: str
) -> dict[str, Any]:
    """run.json, but for what the run itself decides."""
    filesystem = filesystem_of(store_directory)
    return {
        "schema_version": 1,
        **describe(plan, cluster),
        "trace": {
            "path": str(plan.trace),
            "sha256": trace.sha256,
            "name": plan.trace.stem,
            "scale": str(plan.scale),
            "max_len": plan.max_len,
            "agents": plan.agents or workload.roots,
        },
        "bucket_ns": BUCKET_NS,
        "turns_planned": workload.turns,
        **provenance(),
        "storage": {"directory": str(store_directory), "filesystem": filesystem, "durable": durable},
        "wall_s": None,
        "stand_ins": stand_ins(cluster, filesystem, null=plan.null),
    }


def _storage_access(summaries: Sequence[Summary]) -> dict[str, Any]:
    """Whether storage was read past the page cache (None: it was not read); where not, why."""
    found = [summary.reads_direct for summary in summaries if summary.reads_direct is not None]
    notes = {summary.reads_note for summary in summaries} - {""}
    return {"direct_io": all(found) if found else None, "note": "; ".join(sorted(notes))}


def _rows(summaries: Sequence[Summary]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of the tables `links` and `blocks`."""
    links: list[dict[str, Any]] = []
    blocks: list[dict[str, Any]] = []
    for summary in sorted(summaries, key=lambda summary: summary.engine):
        links += [msgspec.to_builtins(row) for row in summary.links]
        blocks += [
            {**msgspec.structs.asdict(block), "key": block.key.hex(), "engine": summary.engine}
            for block in summary.blocks
        ]
    return links, blocks


def _reason(failure: BaseException) -> str:
    return _INTERRUPTED if isinstance(failure, KeyboardInterrupt) else f"{type(failure).__name__}: {failure}"


def _encode(value: object) -> str:
    """An event or command as JSON: [type, fields]."""
    return msgspec.json.encode([type(value).__name__, value]).decode()


class _uninterrupted:
    """Ctrl-C and its like wait while rows are written."""

    def __enter__(self) -> None:
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        self._previous = {number: signal.signal(number, signal.SIG_IGN) for number in signals}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
