"""Make the traces that ship with the project: python traces/make.py [FOLDER]"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from dualpath.core.trajectory import Trajectory, Turn
from dualpath.trace.schema import TraceMeta
from dualpath.trace.synth import SETS, synthesize, synthetic_meta
from dualpath.trace.writer import TraceWriter

SESSIONS = 500
SEED = 1
SMOKE_TRAJECTORIES = 8


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name in SETS:
        path = folder / f"agents-{name}.parquet"
        with TraceWriter(path, synthetic_meta(name, SESSIONS, SEED)) as writer:
            for trajectory in synthesize(name, SESSIONS, SEED):
                writer.write(trajectory)
        _say(path, writer)
    path = folder / "smoke.parquet"
    with TraceWriter(path, _smoke_meta()) as writer:
        for trajectory in _smoke():
            writer.write(trajectory)
    _say(path, writer)


def _say(path: Path, writer: TraceWriter) -> None:
    size = path.stat().st_size
    print(f"{path}: {writer.num_trajectories} trajectories, {writer.num_turns} turns, {size:,} bytes")


def _smoke() -> list[Trajectory]:
    """Tiny agents: 3 to 6 turns, contexts below 700 tokens."""
    rng = random.Random(SEED)
    trajectories = []
    for index in range(SMOKE_TRAJECTORIES):
        turns = [Turn(rng.randint(150, 300), rng.randint(3, 10))]
        turns += [Turn(rng.randint(10, 60), rng.randint(3, 10)) for _ in range(rng.randint(2, 5))]
        trajectories.append(Trajectory(f"smoke-{index}", tuple(turns)))
    return trajectories


def _smoke_meta() -> TraceMeta:
    return TraceMeta(
        source="eight tiny made-up agents, to try things in seconds; they resemble no workload",
        licence="Apache-2.0",
        derived=dict.fromkeys(("append_tokens", "generate_tokens"), "uniform") | {"gap_ns": "0"},
        absent=("keep_tokens", "arrival_ns", "parent_trajectory", "parent_turn", "hash_shared", "hash_new"),
        generator="traces/make.py",
        seed=SEED,
        arguments={"trajectories": str(SMOKE_TRAJECTORIES)},
    )


if __name__ == "__main__":
    main()
