"""Wires a run: trace and cluster -> feed, scheduler, engine -> main loop (`core/loop.py`) -> run directory."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import msgspec

from dualpath.cluster_file import load_cluster
from dualpath.core.arms import ARMS, Arm
from dualpath.core.cluster import Cluster
from dualpath.core.errors import DualpathError, RunError, StoreError, TraceError
from dualpath.core.events import Request
from dualpath.core.feed import DueTurn, Feed
from dualpath.core.hops import BytePrediction
from dualpath.core.loop import run
from dualpath.core.prefix import PrefixIndex
from dualpath.core.scheduler import Scheduler
from dualpath.core.trajectory import Trajectory
from dualpath.engine.backend import EngineBackend
from dualpath.engine.content import TurnContent
from dualpath.engine.direct_io import filesystem_of
from dualpath.engine.geometry import store_layout
from dualpath.engine.messages import BlockRef, Summary
from dualpath.engine.meter import BUCKET_NS
from dualpath.engine.store import Location, create_store, scan
from dualpath.provenance import host, repository, stand_ins, versions
from dualpath.results.recorder import Recorder, write_json
from dualpath.trace.reader import TraceFile
from dualpath.trace.select import select
from dualpath.trace.tokens import TokenStream, planned_hit_tokens

FeedMode = Literal["offline", "online", "recorded"]


@dataclass(frozen=True, slots=True)
class Plan:
    """All that decides a run."""

    trace: Path
    cluster: Path
    arm: str
    output: Path
    agents: int
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
    snic: float | None = None  # overrides the cluster file's rate, bytes per second


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    directory: Path
    status: Literal["ok", "void"]
    reasons: tuple[str, ...]
    turns: int
    turns_planned: int
    jct_s: float | None


def replay(plan: Plan, progress: Callable[[int, int], None]) -> Outcome:
    """Replay a trace through the real engine and leave a run directory.

    progress(turns ended, turns planned). Bad input raises a DualpathError before anything runs; a failure during
    the run, or Ctrl-C, keeps what was recorded and marks the run void.
    """
    arm = ARMS[plan.arm]
    cluster_file = load_cluster(plan.cluster)
    cluster = cluster_file.cluster
    with TraceFile.open(plan.trace) as trace:
        trajectories = select(trace, plan.agents, plan.seed, scale=plan.scale, max_len=plan.max_len)
        trace_facts = {
            "path": str(plan.trace),
            "sha256": trace.sha256,
            "name": plan.trace.stem,
            "scale": str(plan.scale),
            "max_len": plan.max_len,
            "agents": plan.agents,
        }
    prompts = [trajectory.prompt_tokens() for trajectory in trajectories]
    totals = [
        prompt + turn.generate_tokens
        for trajectory, lengths in zip(trajectories, prompts, strict=True)
        for turn, prompt in zip(trajectory.turns, lengths, strict=True)
    ]
    cluster.check_fits(max(max(lengths) for lengths in prompts), max(totals), arm.layerwise)
    arrivals_ns = arrivals(plan, trajectories)
    store_directory, keep_store = _make_directories(plan)
    layout = store_layout(cluster)
    create_store(store_directory, layout)
    _check_space(store_directory, trajectories, cluster, arm)

    feed = Feed(trajectories, arrivals_ns, plan.gap_scale)
    scheduler = Scheduler(cluster, arm)
    contents = Contents(plan.seed, trajectories, cluster, moves_kv=arm.moves_kv)
    contents.known(scan(store_directory, layout))
    turns_planned = len(totals)
    facts = _facts(plan, arm, cluster, cluster_file.durable, trace_facts, store_directory, turns_planned)
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
        trajectories,
        [planned_hit_tokens(trajectory, cluster.block_tokens) for trajectory in trajectories],
        arm,
        BytePrediction(cluster, arm),
        scheduler.flights,
        backend.now_ns,
        _encode,
        lambda ended: progress(ended, turns_planned),
    )
    reasons: list[str] = []
    started_s = time.monotonic()
    busy_ns = 0
    with backend:
        try:
            backend.start()
            started_s = time.monotonic()
            busy_from_ns = time.process_time_ns()
            run(feed, contents.admit, scheduler, backend, recorder, time.perf_counter_ns)
            busy_ns = time.process_time_ns() - busy_from_ns
        except KeyboardInterrupt:
            reasons.append("interrupted (Ctrl-C)")
        except DualpathError as error:
            reasons.append(f"{type(error).__name__}: {error}")
        wall_s = time.monotonic() - started_s
        with _uninterrupted():
            try:
                backend.finish()
            except DualpathError as error:
                reasons = reasons or [f"{type(error).__name__}: {error}"]
            _note_summaries(recorder, backend.summaries)
            recorder.write(plan.output)
            if not keep_store:
                shutil.rmtree(store_directory)
    if recorder.ended < turns_planned and not reasons:
        reasons.append(f"{turns_planned - recorder.ended} turns did not end")
    direct = all(hello.direct_io for hello in backend.hellos)
    facts["storage"]["direct_io"] = direct
    facts["storage"]["note"] = "; ".join(sorted({hello.direct_io_note for hello in backend.hellos} - {""}))
    status: Literal["ok", "void"] = "void" if reasons else "ok"
    facts.update(
        status=status,
        reasons=reasons,
        wall_s=wall_s,
        coordinator={"busy_ns": busy_ns, "decision_ns": recorder.decision_ns, "turns": recorder.ended},
    )
    write_json(plan.output / "run.json", facts)
    return Outcome(
        plan.output,
        status,
        tuple(reasons),
        recorder.ended,
        turns_planned,
        recorder.last_end_ns / 1e9 if status == "ok" else None,
    )


class Contents:
    """Tokens and blocks behind the scheduler's counts: admits due turns, learns what was stored."""

    def __init__(self, seed: int, trajectories: Sequence[Trajectory], cluster: Cluster, *, moves_kv: bool) -> None:
        self._cluster = cluster
        self._moves_kv = moves_kv
        self._trajectories = trajectories
        self._prompts = [trajectory.prompt_tokens() for trajectory in trajectories]
        self._streams = [TokenStream(trajectory, seed=seed, vocab=cluster.model.vocab) for trajectory in trajectories]
        self._index = PrefixIndex()
        self._locations: dict[bytes, Location] = {}
        self._num_requests = 0
        self.live: dict[int, TurnContent] = {}

    def known(self, locations: dict[bytes, Location]) -> None:
        """Blocks that are in the store already."""
        self._index.add(list(locations))
        self._locations.update(locations)

    def admit(self, due: DueTurn) -> Request:
        """Make a due turn a request: look up how much of its prompt is in storage."""
        block_tokens = self._cluster.block_tokens
        stream = self._streams[due.trajectory]
        turn = self._trajectories[due.trajectory].turns[due.turn]
        prompt_tokens = self._prompts[due.trajectory][due.turn]
        # The last generated token is never fed back, so it has no KV and fills no block.
        keys = stream.keys(due.turn, block_tokens)[: (prompt_tokens + turn.generate_tokens - 1) // block_tokens]
        # At least one prompt token is computed, or there would be nothing to sample the first token from.
        hit_blocks = self._index.match(keys[: (prompt_tokens - 1) // block_tokens])
        refs = [BlockRef(key, self._locations[key]) for key in keys[:hit_blocks]] if self._moves_kv else []
        request = Request(self._num_requests, due.trajectory, due.turn, prompt_tokens, turn.generate_tokens, hit_blocks)
        self._num_requests += 1
        self.live[request.id] = TurnContent(stream.prompt(due.turn), stream.output(due.turn), keys, refs)
        return request

    def stored(self, content: TurnContent, refs: list[BlockRef]) -> None:
        """A turn has left its full blocks in storage (or, in an arm that moves no KV, would have)."""
        self._index.add(content.keys)
        for ref in refs:
            self._locations[ref.key] = ref.location


def arrivals(plan: Plan, trajectories: Sequence[Trajectory]) -> list[int]:
    """When each trajectory starts, ns of the run's clock. Online: Poisson, seeded."""
    if plan.mode == "offline":
        return [0] * len(trajectories)
    if plan.mode == "online":
        if plan.rate_per_s is None or not plan.rate_per_s > 0:
            raise TraceError(f"--rate is {plan.rate_per_s}; it must be above 0 trajectories per second")
        rng = random.Random(f"arrivals {plan.seed}")
        at_s = 0.0
        arrivals_ns: list[int] = []
        for trajectory in trajectories:
            if trajectory.parent is None:
                at_s += rng.expovariate(plan.rate_per_s)
            arrivals_ns.append(int(at_s * 1e9))
        return arrivals_ns
    recorded = [trajectory.turns[0].arrival_ns for trajectory in trajectories]
    for trajectory, arrival_ns in zip(trajectories, recorded, strict=True):
        if arrival_ns is None and trajectory.parent is None:
            raise TraceError(
                f"{plan.trace}: trajectory {trajectory.id} has no arrival_ns, so arrivals cannot be replayed as "
                "recorded; use --agents alone (offline) or --rate (online)"
            )
    first_ns = min(arrival_ns for arrival_ns in recorded if arrival_ns is not None)
    return [0 if arrival_ns is None else arrival_ns - first_ns for arrival_ns in recorded]


def _make_directories(plan: Plan) -> tuple[Path, bool]:
    """The run's directory, new, and its store: (directory, keep it)."""
    if (plan.output / "run.json").exists():
        raise RunError(f"{plan.output}: holds a run already; choose another -o, or delete it")
    try:
        plan.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{plan.output}: cannot be created: {error.strerror}; choose another -o") from None
    if plan.store is not None:
        return plan.store, True
    store = plan.output / "store"
    if store.exists():
        shutil.rmtree(store)  # of a run that was killed before it could write run.json
    return store, False


def _check_space(directory: Path, trajectories: Sequence[Trajectory], cluster: Cluster, arm: Arm) -> None:
    """Refuse at once what would end in a full disk."""
    if not arm.moves_kv:
        return
    need_bytes = sum(
        cluster.blocks(turn.append_tokens + turn.generate_tokens) * cluster.block_bytes
        for trajectory in trajectories
        for turn in trajectory.turns
    )
    # A turn fills at most its new tokens' blocks; short turns share one, so this bound is generous.
    tokens = sum(turn.append_tokens + turn.generate_tokens for each in trajectories for turn in each.turns)
    need_bytes = min(need_bytes, cluster.blocks(tokens) * cluster.block_bytes)
    free_bytes = shutil.disk_usage(directory).free
    if need_bytes > free_bytes:
        raise StoreError(
            f"{directory}: {free_bytes / 2**20:,.0f} MiB free, but the trace's KV takes up to "
            f"{need_bytes / 2**20:,.0f} MiB ({cluster.model.name}: {cluster.model.kv_bytes:,} bytes per token); free "
            "space, choose another --store, or shrink the trace with --agents, --scale or --max-len"
        )


def _facts(
    plan: Plan,
    arm: Arm,
    cluster: Cluster,
    durable: str,
    trace_facts: dict[str, Any],
    store_directory: Path,
    turns_planned: int,
) -> dict[str, Any]:
    """run.json, but for what the run itself decides."""
    resolved: dict[str, Any] = msgspec.to_builtins(cluster)
    resolved.update(
        model=cluster.model.name,
        model_shape=msgspec.to_builtins(cluster.model),
        kv_bytes_per_token=cluster.model.kv_bytes,
    )
    filesystem = filesystem_of(store_directory)
    return {
        "schema_version": 1,
        "backend": "null" if plan.null else "engine",
        "arm": arm.name,
        "cluster": resolved,
        "trace": trace_facts,
        "feed": {
            "mode": plan.mode,
            "rate_per_s": plan.rate_per_s,
            "gap_scale": plan.gap_scale,
            "seed": plan.seed,
        },
        "seed": plan.seed,
        "repeat": plan.repeat,
        "deterministic": plan.deterministic,
        "verify": plan.verify,
        "bucket_ns": BUCKET_NS,
        "turns_planned": turns_planned,
        **repository(),
        "host": host(),
        "versions": versions(),
        "storage": {
            "directory": str(store_directory),
            "filesystem": filesystem,
            "direct_io": None,
            "note": "",
            "durable": durable,
        },
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_s": None,
        "stand_ins": stand_ins(cluster, filesystem, null=plan.null),
    }


def _note_summaries(recorder: Recorder, summaries: Sequence[Summary]) -> None:
    for summary in sorted(summaries, key=lambda summary: summary.engine):
        recorder.links += [msgspec.to_builtins(row) for row in summary.links]
        for block in summary.blocks:
            trajectory, turn = recorder.turn_key(block.request)
            recorder.blocks.append(
                {
                    "trajectory": trajectory,
                    "turn": turn,
                    "block": block.block,
                    "key": block.key.hex(),
                    "checkpoint": block.checkpoint,
                    "route": block.route,
                    "engine": summary.engine,
                    "checksum_written": block.checksum_written,
                    "checksum_read": block.checksum_read,
                }
            )


def _encode(value: object) -> str:
    """An event or command as JSON: [type, fields]."""
    return msgspec.json.encode([type(value).__name__, value]).decode()


class _uninterrupted:
    """Ctrl-C waits while rows are written."""

    def __enter__(self) -> None:
        self._previous = signal.signal(signal.SIGINT, signal.SIG_IGN)

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)


def with_output(plan: Plan, output: Path) -> Plan:
    """The same plan into another directory."""
    return replace(plan, output=output)
