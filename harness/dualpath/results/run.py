"""A run directory opened for reading: run.json typed, the raw tables lazy and with their schema asserted.

Not aware of what the numbers mean (metrics.py), nor of who wrote them (an engine, a simulator).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import polars as pl

from dualpath.core.arms import ARMS
from dualpath.core.errors import RunError
from dualpath.results.tables import TABLES

SCHEMA_VERSION = 1


class Side(msgspec.Struct, frozen=True):
    """The prefill or the decode half of a cluster."""

    nodes: int
    engines_per_node: int


class Cluster(msgspec.Struct, frozen=True):
    """What of a resolved cluster the results need; the whole of it stays in `Run.raw`."""

    name: str
    model: str | dict[str, Any]
    block_tokens: int
    kv_bytes_per_token: int
    prefill: Side
    decode: Side
    snic_bytes_per_s: float | None = None  # null: native, unpaced
    cnic_bytes_per_s: float | None = None


class TraceUse(msgspec.Struct, frozen=True):
    """Which trace was replayed, and how much of it."""

    path: str
    sha256: str
    name: str
    agents: int
    scale: float | str = 1.0
    max_len: int | None = None


class Selection(msgspec.Struct, frozen=True):
    """What was changed of each turn before it was shrunk."""

    append_factor: float | str = "1"
    generate_factor: float | str = "1"


class Transport(msgspec.Struct, frozen=True):
    """What KV goes over between engines."""

    type: str = "shared"


class Feed(msgspec.Struct, frozen=True):
    """When turns fell due."""

    mode: str  # offline | online | recorded
    rate_per_s: float | None = None
    gap_scale: float | None = None
    gap_s: float = 0.0
    seed: int | None = None


class Coordinator(msgspec.Struct, frozen=True):
    """The harness's own time: what the coordinator spent awake, over how many turns."""

    busy_ns: int
    turns: int


class Manifest(msgspec.Struct, frozen=True):
    """run.json."""

    schema_version: int
    backend: str  # engine | sim | null | stub
    arm: str
    status: str  # ok | void
    cluster: Cluster
    trace: TraceUse
    feed: Feed
    bucket_ns: int
    selection: Selection = Selection()
    transport: Transport = Transport()
    constants: list[tuple[str, float]] = []  # of the simulator, given with --set
    factors: list[tuple[str, float]] = []  # with --times
    reasons: list[str] = []
    turns_planned: int = 0  # not less than the table `turns` has
    turns_of_several_tokens_planned: int | None = None  # two or more; null: not recorded
    seed: int | None = None
    repeat: int = 0
    deterministic: bool = False
    verify: bool = False
    commit: str | None = None
    dirty: bool | None = None
    host: dict[str, Any] = {}
    versions: dict[str, Any] = {}
    storage: dict[str, Any] = {}
    started_at: str | None = None
    wall_s: float | None = None
    coordinator: Coordinator | None = None
    warm_up: str = ""  # what was done before the clock started
    stand_ins: list[tuple[str, str, str]] = []  # part, the real thing, what stood in here


@dataclass(frozen=True, slots=True)
class Run:
    """One replay, real or simulated. Tables are lazy: nothing is read before a metric collects it."""

    directory: Path
    manifest: Manifest
    raw: dict[str, Any]  # run.json as it is
    turns: pl.LazyFrame
    links: pl.LazyFrame
    decisions: pl.LazyFrame
    blocks: pl.LazyFrame | None
    reasons: tuple[str, ...]  # why the run is void; empty when it is a result

    @classmethod
    def load(cls, directory: str | Path) -> Run:
        """Open a run directory. Raises RunError that names the file and what is wrong with it."""
        directory = Path(directory)
        if not directory.is_dir():
            raise RunError(f"{directory}: no such run directory; give the folder that holds run.json")
        manifest, raw = _read_manifest(directory / "run.json")
        void = manifest.status != "ok"
        turns = _scan(directory, "turns", empty_if_missing=void)
        links = _scan(directory, "links", empty_if_missing=void)
        decisions = _scan(directory, "decisions", empty_if_missing=void)
        has_blocks = (directory / "blocks.parquet").exists()
        blocks = _scan(directory, "blocks", empty_if_missing=False) if has_blocks else None
        reasons = [*manifest.reasons] or ([f"status is {manifest.status!r}"] if void else [])
        if not void:
            reasons = _unfinished(turns)
        return cls(directory, manifest, raw, turns, links, decisions, blocks, tuple(reasons))

    @property
    def void(self) -> bool:
        """Not a result and not a regression: some turn did not finish, or the run says so of itself."""
        return bool(self.reasons)

    @property
    def arm(self) -> str:
        return self.manifest.arm

    @property
    def cluster(self) -> Cluster:
        return self.manifest.cluster

    @property
    def workload(self) -> dict[str, object]:
        """What two runs must share for their times to be comparable, by name."""
        manifest, trace, feed = self.manifest, self.manifest.trace, self.manifest.feed
        return {
            "backend": manifest.backend,
            "deterministic": manifest.deterministic,
            "model": str(self.cluster.model),
            "trace": trace.name,
            "sha256": trace.sha256[:8],
            "scale": str(trace.scale),
            "max_len": trace.max_len,
            "append_factor": str(manifest.selection.append_factor),
            "generate_factor": str(manifest.selection.generate_factor),
            "agents": trace.agents,
            "seed": manifest.seed,
            "mode": feed.mode,
            "rate_per_s": feed.rate_per_s,
            "gap_scale": feed.gap_scale,
            "gap_s": feed.gap_s,
        }

    def unlike(self, other: Run, *but: str) -> str | None:
        """Name of the first part of the workload that the other run does not share, `but` for some; None: they share
        all."""
        theirs = other.workload
        return next((key for key, value in self.workload.items() if key not in but and value != theirs[key]), None)

    @property
    def setting(self) -> dict[str, object]:
        """What besides the workload and the arm two runs must share to be repeats of each other, by name."""
        manifest, cluster = self.manifest, self.cluster
        return {
            "cluster": cluster.name,
            "prefill": f"{cluster.prefill.nodes}x{cluster.prefill.engines_per_node}",
            "decode": f"{cluster.decode.nodes}x{cluster.decode.engines_per_node}",
            "snic_bytes_per_s": cluster.snic_bytes_per_s,
            "cnic_bytes_per_s": cluster.cnic_bytes_per_s,
            "block_tokens": cluster.block_tokens,
            "transport": manifest.transport.type,
            "verify": manifest.verify,
            "constants": ", ".join(f"{name} {value}" for name, value in manifest.constants) or None,
            "factors": ", ".join(f"{name} x {factor}" for name, factor in manifest.factors) or None,
        }

    @property
    def num_nodes(self) -> int:
        return self.cluster.prefill.nodes + self.cluster.decode.nodes

    def node_name(self, node: int) -> str:
        """P0, P1, ..., D0, ...: nodes are numbered through, prefill nodes first."""
        prefill = self.cluster.prefill.nodes
        return f"P{node}" if node < prefill else f"D{node - prefill}"

    def engine_name(self, engine: int) -> str:
        """PE0, PE1, ..., DE0, ...: engines are numbered through likewise."""
        prefill = self.cluster.prefill.nodes * self.cluster.prefill.engines_per_node
        return f"PE{engine}" if engine < prefill else f"DE{engine - prefill}"

    def read_nodes(self) -> tuple[int, ...]:
        """Nodes whose SNIC the arm may load hits with; of an arm not known here, those it did load with."""
        arm = ARMS.get(self.arm)
        if arm is not None and not arm.moves_kv:
            return ()
        if arm is not None:
            is_single = arm.read_side == "prefill-only"
            return tuple(range(self.cluster.prefill.nodes if is_single else self.num_nodes))
        loads = self.links.filter(
            pl.col("resource") == "snic",
            pl.col("route").is_in(["prefill", "decode"]),
            pl.col("bytes") > 0,
        )
        return tuple(loads.select(pl.col("node").unique().sort()).collect()["node"].to_list())


def load_runs(directories: Iterable[str | Path]) -> list[Run]:
    """Open many run directories, in the order given. The first that cannot be read raises RunError."""
    return [Run.load(directory) for directory in directories]


def require_result(run: Run) -> None:
    """Raise RunError if the run is void: a void run has no numbers."""
    if run.void:
        raise RunError(f"{run.directory}: the run is void ({'; '.join(run.reasons)}); replay it to get a result")


def polars_schema(table: str) -> dict[str, pl.DataType]:
    """The declared schema of a raw table in Polars' types."""
    frame = cast(pl.DataFrame, pl.from_arrow(TABLES[table].empty_table()))
    return dict(frame.schema)


def _read_manifest(path: Path) -> tuple[Manifest, dict[str, Any]]:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); is this a run directory?") from error
    try:
        raw = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise RunError(f"{path}: not JSON ({error}); the run was cut off or the file was edited") from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION:
        raise RunError(
            f"{path}: schema_version is {version!r}, this program reads {SCHEMA_VERSION}; "
            "replay the trace again, or use the version that wrote it"
        )
    try:
        manifest = msgspec.convert(raw, Manifest)
    except msgspec.ValidationError as error:
        raise RunError(f"{path}: {error}") from error
    if manifest.bucket_ns <= 0:
        raise RunError(f"{path}: bucket_ns is {manifest.bucket_ns}, must be at least 1")
    return manifest, raw


def _scan(directory: Path, table: str, *, empty_if_missing: bool) -> pl.LazyFrame:
    path = directory / f"{table}.parquet"
    declared = polars_schema(table)
    if not path.exists():
        if empty_if_missing:
            return pl.LazyFrame(schema=declared)
        raise RunError(f"{path}: missing; the run directory is incomplete")
    frame = pl.scan_parquet(path)
    try:
        found = dict(frame.collect_schema())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise RunError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from error
    wrong = [
        f"{name} is {found.get(name, 'missing')}, declared {kind}"
        for name, kind in declared.items()
        if found.get(name) != kind
    ]
    wrong += [f"unknown column {name}" for name in found if name not in declared]
    if wrong:
        raise RunError(f"{path}: not the declared schema of {table!r}: {'; '.join(wrong)}")
    return frame


def _unfinished(turns: pl.LazyFrame) -> list[str]:
    counts = turns.select(total=pl.len(), failed=(pl.col("status") != "ok").sum()).collect()
    total, failed = counts.row(0)
    if not total:
        return ["run.json says ok, but there is no turn"]
    return [f"run.json says ok, but {failed} of {total} turns did not finish"] if failed else []
