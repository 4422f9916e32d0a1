"""The GPU experiment: every arm on 1P1D, 1P2D and 2P1D of Qwen2.5-7B, all engines on the GPUs of this machine.

    PYTHONPATH=harness python bench/gpu.py [OUT] [--clusters h200-1p1d,...] [--arms ...] [--repeats 0,1,2] [--profile]

OUT (default: bench/out/gpu) is where the KV is stored, too: at 6.25 GB/s a storage NIC reads faster than most disks,
so let it be a file system in memory. Runs are interleaved: repeat by repeat, cluster by cluster, every arm. A finished
run of the same plan and commit is kept, so an interrupted experiment goes on where it stopped. --profile measures the
machine as well, for the simulator (OUT/profile.toml).

Engines take the GPUs there are in turn. What sharing one distorts is measured on a machine with two, run by run, with
CUDA_VISIBLE_DEVICES=0 and without, into OUT/one-gpu and OUT/two-gpus (reports/gpu_sharing.py).

Engines of one GPU share it through NVIDIA's MPS, so that their kernels run side by side; without it the GPU would serve
them in turns of milliseconds. The daemon is started here and ends with the experiment.

Needs torch with Triton, and of the suite's other packages those that `dualpath replay` needs; no Polars.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from pathlib import Path

from dualpath.calibrate import calibrate
from dualpath.core.arms import ARMS
from dualpath.core.errors import DualpathError
from dualpath.plan import Plan
from dualpath.series import Step, run_series

ROOT = Path(__file__).resolve().parents[1]
CLUSTERS = ("h200-1p1d", "h200-1p2d", "h200-2p1d")
# A slice of the 32K set whose computing one GPU can keep up with: lengths by 1/8, contexts of up to 4,096 tokens.
TRACE, SCALE, MAX_LEN, AGENTS = "agents-32k", Fraction(1, 8), 4096, 48


def plan(cluster: str, arm: str, output: Path, repeat: int) -> Plan:
    return Plan(
        trace=ROOT / "traces" / f"{TRACE}.parquet",
        cluster=ROOT / "bench" / "clusters" / f"{cluster}.toml",
        arm=arm,
        output=output,
        agents=AGENTS,
        scale=SCALE,
        max_len=MAX_LEN,
        repeat=repeat,
    )


@contextmanager
def shared_gpu() -> Iterator[None]:
    """With NVIDIA's MPS."""
    control = shutil.which("nvidia-cuda-mps-control") or "/usr/local/nvidia/bin/nvidia-cuda-mps-control"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ.update(CUDA_MPS_PIPE_DIRECTORY=folder, CUDA_MPS_LOG_DIRECTORY=folder)
        subprocess.run([control, "-d"], check=True)
        try:
            yield
        finally:  # at once, not when its last client has gone: this process is one
            subprocess.run([control], input=b"quit -t 1\n", check=True, timeout=60)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, default=ROOT / "bench" / "out" / "gpu")
    parser.add_argument("--clusters", default=",".join(CLUSTERS))
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--repeats", default="0,1,2", help="numbers of those to run; empty: none")
    parser.add_argument("--profile", action="store_true", help="measure the machine for the simulator, too")
    arguments = parser.parse_args()
    out, arms = arguments.out, arguments.arms.split(",")
    if unknown := set(arms) - set(ARMS):
        parser.error(f"--arms {', '.join(sorted(unknown))}: known are {', '.join(ARMS)}")
    steps = [
        Step(f"{cluster} {arm} r{repeat}", plan(cluster, arm, out / cluster / arm / f"r{repeat}", repeat))
        for repeat in map(int, filter(None, arguments.repeats.split(",")))
        for cluster in arguments.clusters.split(",")
        for arm in arms
    ]
    with shared_gpu():
        outcomes = run_series(steps, replace=True)
        if any(outcome.interrupted for outcome in outcomes):
            return 130
        if arguments.profile:
            cluster_file = ROOT / "bench" / "clusters" / f"{CLUSTERS[0]}.toml"
            say = partial(print, file=sys.stderr, flush=True)
            calibrate(cluster_file, out / "profile.toml", say, MAX_LEN)
    return 2 if any(outcome.status == "void" for outcome in outcomes) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DualpathError as error:
        sys.exit(f"error: {error}")
