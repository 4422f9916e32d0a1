"""What a run is to be, what it is a run of, and how it ended: shared by the real engine and the simulator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import msgspec

from dualpath.core.arms import ARMS
from dualpath.core.cluster import Cluster
from dualpath.core.errors import PlanError, RunError
from dualpath.core.feed import Start
from dualpath.engine.messages import Delays
from dualpath.engine.network import NetworkSettings
from dualpath.provenance import provenance
from dualpath.trace import starts
from dualpath.trace.reader import TraceFile
from dualpath.trace.select import select
from dualpath.trace.starts import FeedMode, Workload

INTERRUPTED = "interrupted (Ctrl-C)"


@dataclass(frozen=True, slots=True)
class Plan:
    """All that decides a run."""

    trace: Path
    cluster: Path
    arm: str
    output: Path
    backend: Literal["engine", "sim"] = "engine"
    agents: int | None = None  # None: as many as the trace has
    mode: FeedMode = "offline"
    rate_per_s: float | None = None  # online: trajectories per second
    gap_scale: float = 0.0  # on recorded gaps
    gap_s: float = 0.0  # mean of drawn gaps, instead of the recorded ones
    seed: int = 0
    repeat: int = 0
    scale: Fraction = Fraction(1)
    max_len: int | None = None
    append_factor: Fraction = Fraction(1)
    generate_factor: Fraction = Fraction(1)
    deterministic: bool = False
    verify: bool = False
    null: bool = False
    delays: Delays | None = None  # real: with `null`, engines answer after these
    network: NetworkSettings | None = None  # real: what KV between engines goes over; None: shared memory
    listen: str | None = None  # real: HOST:PORT at which other hosts join
    remote: tuple[str, ...] = ()  # real: the nodes they run: prefill, decode, or numbers
    token: str = ""  # real: which they must know
    wait_s: float = 300.0  # real: for them
    store: Path | None = None  # None: OUTPUT/store, deleted at the end
    model: str | None = None  # simulated: instead of the cluster file's, with the profile of the same name
    profile: str | None = None  # simulated: a shipped name or a file; None: the cluster file's
    constants: tuple[tuple[str, float], ...] = ()  # simulated: instead of the profile's
    factors: tuple[tuple[str, float], ...] = ()  # simulated: on constants of the profile or cluster
    decisions: bool = False  # simulated: keep the tables `decisions` and `predicted`

    def __post_init__(self) -> None:
        """Raises PlanError."""
        if self.arm not in ARMS:
            raise PlanError(f"arm {self.arm!r} is unknown; the arms are {', '.join(ARMS)}")
        if self.mode == "online" and (self.rate_per_s is None or not 1e-9 < self.rate_per_s < 1e9):
            raise PlanError(f"--rate is {self.rate_per_s}; it must be between 1e-9 and 1e9 trajectories per second")
        if not 0 <= self.gap_scale < 1e9:
            raise PlanError(f"--gap-scale is {self.gap_scale}; it must be between 0 and 1e9")
        if not 0 <= self.gap_s <= 1e6:
            raise PlanError(f"--gap-s is {self.gap_s}; it must be between 0 and 1e6 seconds")
        if self.gap_s and self.gap_scale:
            raise PlanError(
                f"--gap-s {self.gap_s:g} and --gap-scale {self.gap_scale:g} exclude each other: gaps are "
                "drawn or as recorded"
            )
        if not 0 <= self.seed < 2**63:
            raise PlanError(f"--seed is {self.seed}; it must be between 0 and 2**63 - 1")

    @property
    def gap_factor(self) -> float:
        """On the gaps of the trajectories that `starts_of` gives."""
        return 1.0 if self.gap_s else self.gap_scale


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
        return INTERRUPTED in self.reasons


def starts_of(plan: Plan, trace: TraceFile) -> Iterator[Start]:
    """Which trajectories start when; read from the trace as they are asked for."""
    families = select(
        trace,
        plan.agents,
        plan.seed,
        scale=plan.scale,
        max_len=plan.max_len,
        append_factor=plan.append_factor,
        generate_factor=plan.generate_factor,
        gap_s=plan.gap_s,
    )
    match plan.mode:
        case "offline":
            return starts.offline(families)
        case "online":
            assert plan.rate_per_s is not None, "Plan saw to it"
            return starts.online(families, plan.rate_per_s, plan.seed)
        case "recorded":
            return starts.recorded(families)


def make_directory(plan: Plan) -> None:
    """The run's directory, which must not hold a run. Raises RunError."""
    if (plan.output / "run.json").exists():
        raise RunError(f"{plan.output}: holds a run already; choose another -o, or delete it")
    try:
        plan.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{plan.output}: cannot be created: {error.strerror}; choose another -o") from None


def describe(plan: Plan, cluster: Cluster) -> dict[str, Any]:
    """What a run is a run of, as in run.json; the trace's own facts apart."""
    resolved: dict[str, Any] = msgspec.to_builtins(cluster)
    resolved.update(
        model=cluster.model.name,
        model_shape=msgspec.to_builtins(cluster.model),
        kv_bytes_per_token=cluster.model.kv_bytes,
    )
    return {
        "backend": plan.backend if not plan.null else "null" if plan.delays is None else "stub",
        "delays": msgspec.to_builtins(plan.delays),
        "arm": plan.arm,
        "cluster": resolved,
        "feed": {
            "mode": plan.mode,
            "rate_per_s": plan.rate_per_s,
            "gap_scale": plan.gap_scale,
            "gap_s": plan.gap_s,
            "seed": plan.seed,
        },
        "selection": {
            "agents": plan.agents,
            "scale": str(plan.scale),
            "max_len": plan.max_len,
            "append_factor": str(plan.append_factor),
            "generate_factor": str(plan.generate_factor),
        },
        "seed": plan.seed,
        "repeat": plan.repeat,
        "deterministic": plan.deterministic,
        "verify": plan.verify,
        "transport": {"type": "shared"} if plan.network is None else msgspec.to_builtins(plan.network),
        "remote": list(plan.remote),
        "constants": [list(pair) for pair in plan.constants],
        "factors": [list(pair) for pair in plan.factors],
    }


def facts_of(plan: Plan, cluster: Cluster, trace: TraceFile, workload: Workload) -> dict[str, Any]:
    """The part of run.json that real and simulated runs have in common."""
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
        "turns_planned": workload.turns,
        "turns_of_several_tokens_planned": workload.turns_of_several_tokens,
        **provenance(),
        "wall_s": None,
    }


def reason_of(failure: BaseException) -> str:
    return INTERRUPTED if isinstance(failure, KeyboardInterrupt) else f"{type(failure).__name__}: {failure}"
