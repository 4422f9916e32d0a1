"""What a machine's work costs: the constants of the simulator, each with its unit and where it comes from.

    [pass_ms]
    value = 250.0
    source = "fit: Oracle cells of Fig 7"

A forward pass of a pass group lasts
    pass + max over its PEs of (attention_us_per_context x context + attention_ns_per_pair x pairs
                                + prefill_us_per_token x new tokens),
where pairs are (new token, token it attends to); a decode step of a step group lasts
    step + max over its DEs of (step_us_per_request x requests + step_ns_per_context x context tokens).
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import msgspec

from dualpath.core.errors import ClusterError
from dualpath.known_words import with_known_words

PROFILES = Path(__file__).parent / "profiles"


@dataclass(frozen=True, slots=True)
class Profile:
    """One machine and model. Rates of storage NICs and compute NICs are the cluster's."""

    pass_ms: float  # what a forward pass costs whatever is in it
    prefill_us_per_token: float  # all that is linear in new tokens: dense layers, experts, sparse attention
    attention_us_per_context: float  # per token of the context and pass
    attention_ns_per_pair: float
    prompt_tokens_per_s: float  # that one PE serves, hits included: beta of Algorithm 1 (paper A.4)
    step_ms: float  # what a decode step costs whatever is in it
    step_us_per_request: float
    step_ns_per_context: float
    step_engines: int  # DEs whose decode steps run together
    request_ms: float = 0.0  # messages on a turn's way to its prefill: all before the scheduler sees it
    handoff_ms: float = 0.0  # from the prompt's KV in HBM until decode is asked for
    client_gb_per_s: float = 0.0  # what one engine's storage client reads at most; 0: no limit of its own
    snic_us_per_block: float = 0.0  # what a Full Block costs a storage NIC beside its bytes
    dram_gb_per_s: float = 0.0  # per node, reads and writes together; 0: no limit
    cores: float = 0.0  # or GPUs, that all engines share (sharing.py); 0: each has its own
    cold_us_per_token: float = 0.0  # per new token by which a pass is larger than all before on its PEs


class Constant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    value: float
    source: str


def load_profile(name: str, near: Path) -> tuple[Profile, dict[str, Constant]]:
    """A shipped profile by name, or a file (relative to `near`); and its constants with their sources.
    Raises ClusterError."""
    path = PROFILES / f"{name}.toml"
    if not path.exists():
        path = near / name
    try:
        read: dict[str, Any] = tomllib.loads(path.read_text())
        found = msgspec.convert(read, dict[str, Constant])
    except OSError as error:
        shipped = ", ".join(sorted(file.stem for file in PROFILES.glob("*.toml")))
        raise ClusterError(
            f"profile {name!r}: neither a shipped profile ({shipped}) nor a file that can be read: {error.strerror}"
        ) from None
    except msgspec.ValidationError as error:
        raise ClusterError(f"{path}: {with_known_words(error, dict[str, Constant])}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ClusterError(f"{path}: {error}") from None
    return profile_of(found, str(path)), found


def profile_of(constants: dict[str, Constant], where: str) -> Profile:
    """Raises ClusterError for a constant that is unknown, missing or out of range."""
    known = {field.name: field for field in fields(Profile)}
    values: dict[str, Any] = {}
    for name, constant in constants.items():
        if name not in known:
            raise ClusterError(f"{where}: unknown constant {name!r}; known: {', '.join(known)}")
        if not 0 <= constant.value < 1e15:
            raise ClusterError(f"{where}: {name} = {constant.value} is not between 0 and 1e15")
        values[name] = int(constant.value) if name == "step_engines" else constant.value
    missing = [name for name in list(known)[:9] if name not in values]
    if missing:
        raise ClusterError(f"{where}: missing constant {', '.join(missing)}")
    if values["step_engines"] < 1 or values["step_ms"] + values["step_us_per_request"] <= 0:
        raise ClusterError(f"{where}: step_engines must be at least 1 and a decode step must take time (step_ms)")
    if values["pass_ms"] + values["prefill_us_per_token"] <= 0:
        raise ClusterError(f"{where}: a forward pass must take time (pass_ms)")
    return Profile(**values)
