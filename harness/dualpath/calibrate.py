"""Measures what this machine's work costs, through the engine's own processes, and writes it as a profile.

    commands -> engine processes (rig.py) -> events, each with its time (measure.py) -> least squares (fits.py) -> TOML

The simulator adds these constants up (sim/profile.py); nothing here knows how. Engines run in four settings, one after
the other: without KV (what computing costs), more of them than there are cores, on the cluster's own links (what a
request waits for beside them), and on native links (what a storage client reads).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from dualpath.cluster_file import load_cluster
from dualpath.core.arms import ARMS
from dualpath.core.cluster import Cluster, Memory, Nodes
from dualpath.core.errors import ClusterError, PlanError, RunError
from dualpath.engine.devices import best_device
from dualpath.fits import Fit
from dualpath.hosts import check_memory
from dualpath.measure import (
    CLIENT_BLOCKS,
    COLD_REQUESTS,
    READ_BLOCKS,
    Chunks,
    alone,
    client,
    cold_ns_per_token,
    draw_batches,
    first_passes,
    passes,
    shared_dilation,
    steps,
)
from dualpath.replay import check_engine
from dualpath.rig import Rig
from dualpath.sim.profile import Constant, load_profile

LONGEST = 768  # tokens of the longest context that is measured, unless told otherwise
_SHARING = Nodes(2, 1)  # of each role: engines that compute at once


@dataclass(slots=True)
class Calibration:
    """A profile, and how well it describes what was measured."""

    say: Callable[[str], None]
    constants: dict[str, Constant] = field(default_factory=dict)
    residuals: dict[str, tuple[float, ...]] = field(default_factory=dict)  # of each fit: fitted / measured - 1
    notes: list[str] = field(default_factory=list)

    def keep(self, name: str, value: float, source: str) -> None:
        self.constants[name] = Constant(float(f"{value:.6g}"), source)

    def note(self, line: str) -> None:
        self.notes.append(line)
        self.say(f"  {line}")

    def note_fit(self, what: str, fit: Fit) -> None:
        self.residuals[what] = fit.residuals
        low, *_, high = sorted(fit.residuals)
        self.note(f"{what}: fit of {len(fit.residuals)} kinds is {low:+.1%} to {high:+.1%} off, {fit.rms:.1%} rms")


def calibrate(cluster_path: Path, output: Path, say: Callable[[str], None], longest: int = LONGEST) -> Calibration:
    """Measure, and write a profile. Takes about a minute; say(line) hears how far it is.

    Raises ClusterError for a cluster that the real engine cannot run, PlanError for contexts that cannot be measured,
    RunError where nothing can be written, WorkerError where an engine fails.
    """
    cluster = load_cluster(cluster_path).cluster
    check_engine(cluster)
    if longest < 4 * cluster.block_tokens:
        raise PlanError(f"--longest is {longest}; it must be at least four blocks of {cluster.block_tokens} tokens")
    cluster = _roomy(cluster, longest)
    if output.is_dir():
        raise RunError(f"{output}: is a folder; give the file to write with -o")
    found = Calibration(say)
    with _writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix="calibrate-", dir=output.parent)
    with scratch as directory:
        _measure(found, cluster, Path(directory), longest)
    with _writing(output):
        draft = output.with_suffix(".draft")
        draft.write_text(profile_text(found.constants))
        load_profile(draft.name, output.parent.absolute())  # what is left behind can be used
        draft.replace(output)
    return found


def profile_text(constants: dict[str, Constant]) -> str:
    """A profile file (sim/profile.py)."""
    return "\n".join(
        f"[{name}]\nvalue = {constant.value!r}\nsource = {json.dumps(constant.source)}\n"
        for name, constant in constants.items()
    )


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"{output}: cannot be written: {error.strerror}; choose another -o") from error


def _measure(found: Calibration, cluster: Cluster, scratch: Path, longest: int) -> None:
    batches = draw_batches(longest, cluster.block_tokens)
    found.say("[1/5] forward passes and decode steps, engines without KV")
    with _rig(cluster, "oracle", scratch / "compute") as rig:
        step_fit = _computing(found, rig, batches, longest)
    found.say("[2/5] engines that share cores, or a GPU")
    _sharing(found, replace(cluster, prefill=_SHARING, decode=_SHARING), scratch / "sharing", batches, longest)
    found.say("[3/5] a request alone on the cluster's links")
    with _rig(cluster, "basic", scratch / "links", max(READ_BLOCKS)) as rig:
        waits = alone(rig, step_fit)
    of_one = "measured: of a request alone"
    found.keep("request_ms", waits.request_ns * 1e-6, f"{of_one}, messages and queues before its prefill")
    found.keep("handoff_ms", waits.handoff_ns * 1e-6, f"{of_one}, messages and queues before its decode")
    found.keep("snic_us_per_block", waits.read_ns_per_block * 1e-3, f"{of_one}, reads beyond the storage NIC's rate")
    for name, rate in waits.rates.items():
        asked = cluster.snic_bytes_per_s if name.endswith("read") else cluster.cnic_bytes_per_s
        found.note(f"{name}: {rate / 1e6:.1f}{f' of {asked / 1e6:.1f}' if asked else ''} MB/s")
    found.note(f"beside that: {waits.request_ns / 1e6:.2f} ms to prefill, {waits.handoff_ns / 1e6:.2f} ms to decode")
    found.say("[4/5] storage client on native links")
    native = replace(cluster, snic_bytes_per_s=None, cnic_bytes_per_s=None)
    with _rig(native, "basic", scratch / "native", CLIENT_BLOCKS) as rig:
        rate = client(rig)
        is_direct = all(summary.reads_direct is not False for summary in rig.finish())
    how = f"{cluster.read_in_flight} in flight, {'O_DIRECT' if is_direct else 'THROUGH THE PAGE CACHE'}"
    found.keep("client_gb_per_s", rate / 1e9, f"measured: {CLIENT_BLOCKS} blocks, {how}")
    found.note(f"one engine reads {rate / 1e9:.2f} GB/s, {how}")
    found.say("[5/5] writing the profile")


def _computing(found: Calibration, rig: Rig, batches: list[Chunks], longest: int) -> Fit:
    first = first_passes(rig, longest)
    pass_fit, prompt_tokens_per_s = passes(rig, batches)
    design = f"{len(batches)} forward batches of {rig.cluster.model.name}, contexts up to {longest} tokens"
    names = (("pass_ms", 1e-6), ("prefill_us_per_token", 1e-3), ("attention_us_per_context", 1e-3))
    for (name, factor), value in zip((*names, ("attention_ns_per_pair", 1.0)), pass_fit.constants, strict=True):
        found.keep(name, value * factor, f"measured: least squares over {design}")
    found.keep("prompt_tokens_per_s", prompt_tokens_per_s, f"measured: {design}, hits included")
    found.note_fit("forward passes", pass_fit)
    cold = cold_ns_per_token(first, pass_fit)
    found.keep("cold_us_per_token", cold * 1e-3, f"measured: an engine's first batches, of {COLD_REQUESTS} requests")
    found.note(f"first passes: {cold * 1e-3:.1f} us more per token")
    step_fit = steps(rig, longest)
    design = f"{len(step_fit.residuals)} decode batches of {rig.cluster.model.name}, contexts up to {longest} tokens"
    step_names = (("step_ms", 1e-6), ("step_us_per_request", 1e-3), ("step_ns_per_context", 1.0))
    for (name, factor), value in zip(step_names, step_fit.constants, strict=True):
        found.keep(name, value * factor, f"measured: least squares over {design}")
    found.keep("step_engines", 1, "as built: engines do not wait for each other")
    found.note_fit("decode steps", step_fit)
    return step_fit


def _sharing(found: Calibration, cluster: Cluster, scratch: Path, batches: list[Chunks], longest: int) -> None:
    on_gpus = best_device() != "cpu"
    num, what = (torch.cuda.device_count(), "GPUs") if on_gpus else (len(os.sched_getaffinity(0)), "cores")
    if num >= cluster.num_engines:
        cores, how = float(num), f"counted: {what} that this process may use"
    else:
        with _rig(cluster, "oracle", scratch) as rig:
            dilation = shared_dilation(rig, batches, longest // 2)
        # a core serves one engine at a time; a GPU runs kernels of several side by side, and one alone does not fill it
        most = cluster.num_engines if on_gpus else num
        cores = min(float(most), max(1.0, cluster.num_engines / dilation))
        how = f"measured: {cluster.num_engines} engines at once take {dilation:.2f} times as long on {num} {what}"
    found.keep("cores", cores, how)
    found.note(f"cores: {cores:.2f}; {how}")


def _rig(cluster: Cluster, arm: str, directory: Path, num_stored: int = 0) -> Rig:
    directory.mkdir()
    return Rig(cluster, ARMS[arm], directory, num_stored)


def _roomy(cluster: Cluster, longest: int) -> Cluster:
    """One engine of each role, with memory for every measurement. Raises PlanError where this machine has less."""
    request = (cluster.blocks(longest) + 1) * cluster.block_bytes
    batch = max(COLD_REQUESTS) * request
    memory = Memory(CLIENT_BLOCKS * cluster.block_bytes + request, 5 * batch, batch, 5 * batch)
    several = replace(cluster, prefill=_SHARING, decode=_SHARING, memory=memory)
    try:
        check_memory(several, range(several.num_engines))
    except ClusterError as error:
        raise PlanError(f"--longest {longest} takes more memory than there is; lower it. {error}") from None
    return replace(cluster, prefill=Nodes(1, 1), decode=Nodes(1, 1), memory=memory)
