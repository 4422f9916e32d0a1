"""Cluster files: TOML in, `core.cluster.Cluster` out. Every key is checked; rates and sizes carry their units."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

import msgspec

from dualpath.core.cluster import Cluster, Constants, Memory, Nodes
from dualpath.core.errors import ClusterError
from dualpath.core.known_models import MODELS
from dualpath.core.model_shape import KvDtype, ModelShape
from dualpath.engine.models.checkpoint_config import read_config
from dualpath.known_words import with_known_words

_UNITS: dict[str, float] = {
    **{unit: 1000**power for power, unit in enumerate(("B", "kB", "MB", "GB", "TB"))},
    **{unit: 1024**power for power, unit in enumerate(("KiB", "MiB", "GiB", "TiB"), start=1)},
    **{f"{prefix}bit": 1000**power / 8 for power, prefix in enumerate(("", "k", "M", "G"))},
}

_MOST_BYTES = 2**60


class _Nodes(msgspec.Struct, forbid_unknown_fields=True):
    nodes: int = 1
    engines_per_node: int = 1


class _Prefill(_Nodes, forbid_unknown_fields=True):
    pass_engines: int = 1  # PEs whose forward passes run together
    layerwise_layers: int = 2  # of KV that a PE holds in a layerwise pass


class _Links(msgspec.Struct, forbid_unknown_fields=True):
    snic: str  # a node's storage NIC, each direction
    cnic: str  # an engine's compute NIC, each direction
    model_bytes_per_token: float = 0.0  # that prefill engines exchange on the model lane, each direction


class _Memory(msgspec.Struct, forbid_unknown_fields=True):
    prefill_buffer: str
    decode_buffer: str
    prefill_hbm: str
    decode_hbm: str


class _Storage(msgspec.Struct, forbid_unknown_fields=True):
    durable: Literal["process", "disk"] = "process"
    read_in_flight: int = 4


class _Scheduler(msgspec.Struct, forbid_unknown_fields=True):
    prefill_tokens_per_s: float | None = None  # what one PE serves, profiled beforehand; None: the profile's
    attention_ns_per_pair: float | None = None  # attention time per (new, attended) token pair of a forward pass
    attention_ns_per_context: float | None = None  # and per token of the context
    read_tokens_per_s: float | None = None  # what one SNIC reads; None: from its rate
    alpha_s: float = 3.0
    beta_s: float = 5.0
    quota_ms: float = 300.0
    z_factor: float = 1.05
    report_s: float = 0.0
    prefill_in_flight: int = 1  # forward batches a PE is given ahead


class _File(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    prefill: _Prefill
    decode: _Nodes
    links: _Links
    memory: _Memory
    scheduler: _Scheduler = msgspec.field(default_factory=_Scheduler)
    profile: str | None = None  # what work costs, for the simulator: a shipped profile, or a file beside this one
    storage: _Storage = msgspec.field(default_factory=_Storage)
    block_tokens: int = 64
    kv_dtype: KvDtype | None = None  # of a known model's weights and KV; None: its own


class ClusterFile(msgspec.Struct, frozen=True):
    """A cluster, how its storage is to treat writes, the simulator's profile, and where the model's weights are (None:
    drawn at random)."""

    cluster: Cluster
    checkpoint: Path | None
    profile: str | None
    durable: Literal["process", "disk"]


def load_cluster(path: Path) -> ClusterFile:
    """Raises ClusterError naming the file, the key, the value and what it may be."""
    try:
        raw = msgspec.toml.decode(path.read_bytes(), type=_File)
    except FileNotFoundError:
        raise ClusterError(f"{path}: no such cluster file; see bench/clusters/ for examples") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterError(f"{path}: cannot be read: {error}") from None
    except msgspec.ValidationError as error:
        raise ClusterError(f"{path}: {with_known_words(error, _File)}") from None
    except msgspec.DecodeError as error:
        raise ClusterError(f"{path}: {error}") from None
    checkpoint = None if raw.model in MODELS else path.parent / raw.model
    model = _model(raw, checkpoint, path)
    snic = parse_rate(raw.links.snic, f"{path}: [links] snic")
    constants = _constants(raw.scheduler, snic, model.kv_bytes, path)
    memory = Memory(
        *(
            parse_size(getattr(raw.memory, key), f"{path}: [memory] {key}")
            for key in ("prefill_buffer", "decode_buffer", "prefill_hbm", "decode_hbm")
        )
    )
    try:
        cluster = Cluster(
            name=path.stem,
            model=model,
            prefill=Nodes(raw.prefill.nodes, raw.prefill.engines_per_node),
            decode=Nodes(raw.decode.nodes, raw.decode.engines_per_node),
            memory=memory,
            snic_bytes_per_s=snic,
            cnic_bytes_per_s=parse_rate(raw.links.cnic, f"{path}: [links] cnic"),
            constants=constants,
            block_tokens=raw.block_tokens,
            read_in_flight=raw.storage.read_in_flight,
            prefill_in_flight=raw.scheduler.prefill_in_flight,
            pass_engines=raw.prefill.pass_engines,
            layerwise_layers=raw.prefill.layerwise_layers,
            model_bytes_per_token=raw.links.model_bytes_per_token,
        )
    except ClusterError as error:
        raise ClusterError(f"{path}: {error}") from None
    return ClusterFile(cluster, checkpoint, raw.profile, raw.storage.durable)


def _model(raw: _File, checkpoint: Path | None, path: Path) -> ModelShape:
    if checkpoint is None:
        known = MODELS[raw.model]
        return replace(known, kv_dtype=raw.kv_dtype or known.kv_dtype)
    if not (checkpoint / "config.json").exists():
        raise ClusterError(
            f"{path}: model = {raw.model!r} is neither a known model ({', '.join(MODELS)}) nor a folder with a "
            "checkpoint (config.json and safetensors)"
        )
    if raw.kv_dtype is not None:
        raise ClusterError(
            f"{path}: kv_dtype = {raw.kv_dtype!r}: a checkpoint's KV has the data type of its weights; leave it out"
        )
    return read_config(checkpoint).shape


def _constants(raw: _Scheduler, snic: float | None, kv_bytes: int, path: Path) -> Constants:
    for key in raw.__struct_fields__:
        value = getattr(raw, key)
        if key not in ("prefill_in_flight", "report_s") and value is not None and not 0 < value < 1e12:
            raise ClusterError(f"{path}: [scheduler] {key} = {value} must be above 0 and below 1e12")
    if not 0 <= raw.report_s < 1e6:
        raise ClusterError(f"{path}: [scheduler] report_s = {raw.report_s} must be at least 0 and below 1e6")
    read_tokens_per_s = raw.read_tokens_per_s
    if read_tokens_per_s is None:
        if snic is None:
            raise ClusterError(
                f'{path}: [scheduler] read_tokens_per_s is missing: with snic = "native" it cannot be derived '
                "from the rate; give what one storage NIC reads, in tokens per second"
            )
        read_tokens_per_s = snic / kv_bytes
    return Constants(
        alpha_s=raw.alpha_s,
        beta_s=raw.beta_s,
        quota_s=raw.quota_ms / 1e3,
        z_factor=raw.z_factor,
        report_s=raw.report_s,
        read_tokens_per_s=read_tokens_per_s,
        prefill_tokens_per_s=raw.prefill_tokens_per_s or 0.0,
        attention_ns_per_pair=raw.attention_ns_per_pair or 0.0,
        attention_ns_per_context=raw.attention_ns_per_context or 0.0,
    )


def parse_size(text: str, where: str) -> int:
    """'64MiB' -> bytes."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    if match is None or match[2] not in _UNITS:
        raise ClusterError(f'{where} = {text!r} is not a size; write a number with a unit, such as "64MiB"')
    size = float(match[1]) * _UNITS[match[2]]
    if not 1 <= size < _MOST_BYTES:
        raise ClusterError(f"{where} = {text!r} must be above 0 and below 1 EiB")
    return int(size)


def parse_rate(text: str, where: str) -> float | None:
    """'200MB/s' or '400Gbit/s' -> bytes per second; 'native' -> None."""
    if text.strip() == "native":
        return None
    number, _, per = text.partition("/")
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", number)
    if per.strip() != "s" or match is None or match[2] not in _UNITS:
        raise ClusterError(
            f'{where} = {text!r} is not a rate; write a number with a unit per second, such as "200MB/s" or '
            '"400Gbit/s", or "native" for no pacing'
        )
    rate = float(match[1]) * _UNITS[match[2]]
    if not 1 <= rate < _MOST_BYTES:
        raise ClusterError(f'{where} = {text!r} must be at least 1 B/s and below 1 EiB/s, or "native" for no pacing')
    return rate
