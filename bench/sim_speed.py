"""How fast the simulator is: turns per second, the largest cluster, how cost grows, and other simulators beside it.

    python bench/sim_speed.py                     everything; about 20 minutes on two quiet cores
    python bench/sim_speed.py --only turns        one group again: the report takes the latest session of each
    python bench/sim_speed.py --quick --no-others

Every measurement is a fresh process. The arms of a group are interleaved, in an order drawn anew for every repeat.
Rows are appended to OUT/<group>.jsonl as they come, failed ones with their error; nothing is averaged here
(reports/sim_speed.py does that). Groups:

compile     the first call, with nothing compiled, and the second; all that follows finds the compiled code
turns       2P4D, 2,048 agents of the 64k set: a whole call of `simulate`, and the event loop alone
scaling     the event loop at 2P4D, 8P16D, 24P48D and 48P96D, the same agents per engine of the 48k set
dynosim     DynoSim and `simulate` on the same trace: with a worker for each engine, and for each node
simpy       SimPy, our event loop and our queue alone: as many events, with as many pending
scheduler   core/steps.py alone, on events recorded from large runs, offline and at the paper's online load
big         48P96D, 49,152 agents of the 48k set, about five million turns: the whole call

DynoSim and SimPy live in an environment of their own (--others), which pip fills. Where that fails, their rows say so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dualpath.compile_cache import source_digest
from dualpath.core.errors import DualpathError
from dualpath.core.trajectory import Trajectory
from dualpath.provenance import provenance
from dualpath.trace.exporters import export_trace
from dualpath.trace.reader import TraceFile

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / "bench"
CLUSTER = BENCH / "clusters" / "paper-ds660b-2p4d.toml"
LARGEST = BENCH / "clusters" / "paper-ds660b-48p96d.toml"
LARGEST_ONLINE = BENCH / "clusters" / "paper-ds660b-44p88d.toml"  # as the paper's
SCALES = (1, 4, 12, 24)  # times 2P4D
ONLINE_RATE_PER_S = 8.8  # agents
OTHERS: dict[str, tuple[tuple[str, ...], ...]] = {  # arguments of pip, in order
    "simpy": (("simpy==4.1.2",),),
    "dynosim": (("ai-dynamo-runtime==1.6.1", "typing_extensions"), ("--no-deps", "ai-dynamo==1.6.1")),
}
MOST_S = 1800
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    turns_agents: int
    scaling_agents: int  # at 2P4D
    heap_events: int
    scheduler_events: int
    repeats: int
    big_repeats: int
    others_trace: str


FULL = Size(2048, 2048, 20_000_000, 6_000_000, 5, 2, "agents-64k")
QUICK = Size(8, 8, 100_000, 20_000, 1, 1, "smoke")


@dataclass(frozen=True, slots=True)
class Arm:
    name: str
    command: Sequence[str]
    facts: Row
    why_not: str = ""  # it cannot be run: the row says so


class Session:
    """Runs measurements one by one and keeps their rows."""

    def __init__(self, out: Path, size: Size, seed: int) -> None:
        self.out, self.size = out, size
        self.scratch = out / "scratch"
        self._random = random.Random(seed)
        self._facts: Row = {"session": datetime.now(UTC).isoformat(), "quick": size is QUICK, "seed": seed}
        self._facts |= {"code": source_digest(), **provenance()}
        self._order = 0

    def interleave(self, group: str, arms: Sequence[Arm], repeats: int) -> None:
        for repeat in range(repeats):
            for arm in self._random.sample(arms, len(arms)):
                self.run(group, arm, repeat)

    def run(self, group: str, arm: Arm, repeat: int = 0) -> Row:
        """Raises DualpathError where the simulator's sources are no longer those of the session's first row."""
        if source_digest() != self._facts["code"]:
            raise DualpathError("the simulator's sources changed while it was measured; start again")
        load, started_s = os.getloadavg()[0], time.perf_counter()
        result = {"status": "failed", "error": arm.why_not} if arm.why_not else self._measure(arm.command)
        row = {
            **self._facts,
            "group": group,
            "arm": arm.name,
            "repeat": repeat,
            "order": self._order,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": [part.removeprefix(f"{ROOT}/") for part in arm.command],
            **arm.facts,
            "process_s": time.perf_counter() - started_s,
            "load_before": load,
            "load_after": os.getloadavg()[0],
            **result,
        }
        self._order += 1
        with (self.out / f"{group}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{group:10} {arm.name:16} r{repeat}  {_shown(row)}", file=sys.stderr, flush=True)
        return row

    def _measure(self, command: Sequence[str]) -> Row:
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(self.scratch / "compiled"), "TMPDIR": str(self.scratch)}
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=MOST_S, check=False
            )
            if done.returncode == 0:
                return {"status": "ok", "error": "", **json.loads(done.stdout.splitlines()[-1])}
            error = f"exit code {done.returncode}: {_reason(done.stderr)}"
        except subprocess.TimeoutExpired:
            error = f"not done after {MOST_S} s"
        except (OSError, ValueError, IndexError) as failure:
            error = f"{type(failure).__name__}: {failure}"
        return {"status": "failed", "error": error}


def compile_group(session: Session, others: Others) -> None:
    """With a cold cache, which is then everybody's."""
    for name in ("first call", "second call"):
        session.run("compile", ours("whole", name, CLUSTER, "smoke", 8))
    for kind in ("loop", "pending", "heap", "scheduler"):  # what these add is compiled before anything is timed
        session.run("warm-up", ours(kind, kind, CLUSTER, "smoke", 8, "--events", "1000"))


def turns_group(session: Session, others: Others) -> None:
    what = (CLUSTER, "agents-64k", session.size.turns_agents)
    session.interleave("turns", [ours(kind, kind, *what) for kind in ("whole", "loop")], session.size.repeats)


def scaling_group(session: Session, others: Others) -> None:
    arms = [
        ours("loop", cluster.stem, cluster, "agents-48k", session.size.scaling_agents * times)
        for times, cluster in clusters(session.scratch).items()
    ]
    session.interleave("scaling", arms, min(3, session.size.repeats))


def dynosim_group(session: Session, others: Others) -> None:
    trace = ROOT / "traces" / f"{session.size.others_trace}.parquet"
    exported = session.scratch / f"{trace.stem}.jsonl"
    export_sessions(trace, exported)
    program = [str(others.python), str(BENCH / "sim_speed_dynosim.py"), str(exported)]
    why_not = others.why_not("dynosim")

    def dynosim(name: str, prefill: int, decode: int, router: str) -> Arm:
        workers = {"prefill_workers": prefill, "decode_workers": decode, "router": router}
        options = ["--prefill", str(prefill), "--decode", str(decode), "--router", router]
        return Arm(name, [*program, *options], {"trace": trace.stem, **workers}, why_not)

    arms = [
        ours("whole", "dualpath", CLUSTER, trace.stem, None),
        ours("loop", "dualpath loop", CLUSTER, trace.stem, None),
        dynosim("dynosim 16P32D", 16, 32, "kv_router"),
        dynosim("dynosim 2P4D", 2, 4, "round_robin"),
    ]
    session.interleave("dynosim", arms, min(3, session.size.repeats))


def simpy_group(session: Session, others: Others) -> None:
    size = session.size
    found = session.run("simpy", ours("pending", "pending", CLUSTER, "agents-64k", size.turns_agents))
    events, pending = str(found.get("events", 1_000_000)), str(max(1, found.get("pending", 64)))
    program = [str(others.python), str(BENCH / "sim_speed_simpy.py"), "--events", events, "--pending", pending]
    queue = [sys.executable, str(BENCH / "sim_speed_ours.py"), "heap", "--pending", pending]
    arms = [
        ours("loop", "loop", CLUSTER, "agents-64k", size.turns_agents),
        Arm("queue", [*queue, "--events", str(size.heap_events)], {}),
        Arm("simpy", program, {}, others.why_not("simpy")),
    ]
    session.interleave("simpy", arms, size.repeats)


def scheduler_group(session: Session, others: Others) -> None:
    agents, events = session.size.scaling_agents * SCALES[-1], ("--events", str(session.size.scheduler_events))
    online = (*events, "--rate", str(ONLINE_RATE_PER_S))
    arms = [
        ours("scheduler", "offline", LARGEST, "agents-48k", agents, *events),
        ours("scheduler", "online", LARGEST_ONLINE, "agents-48k", agents, *online),
    ]
    session.interleave("scheduler", arms, min(3, session.size.repeats))


def big_group(session: Session, others: Others) -> None:
    arm = ours("whole", "whole", LARGEST, "agents-48k", session.size.scaling_agents * SCALES[-1])
    session.interleave("big", [arm], session.size.big_repeats)


GROUPS: dict[str, Callable[[Session, Others], None]] = {
    "compile": compile_group,
    "turns": turns_group,
    "scaling": scaling_group,
    "dynosim": dynosim_group,
    "simpy": simpy_group,
    "scheduler": scheduler_group,
    "big": big_group,
}


def ours(kind: str, name: str, cluster: Path, trace: str, agents: int | None, *more: str) -> Arm:
    command = [sys.executable, str(BENCH / "sim_speed_ours.py"), kind, "--cluster", str(cluster)]
    command += ["--trace", str(ROOT / "traces" / f"{trace}.parquet"), *more]
    command += [] if agents is None else ["--agents", str(agents)]
    return Arm(name, command, {"cluster": cluster.stem, "trace": trace, "agents": agents})


def clusters(folder: Path) -> dict[int, Path]:
    """Cluster files of 2P4D times SCALES, made from the shipped one, which differs from them in nothing else."""
    found = {times: folder / f"paper-ds660b-{2 * times}p{4 * times}d.toml" for times in SCALES}
    for times, path in found.items():
        path.write_text(resized(CLUSTER.read_text(), 2 * times, 4 * times))
    return found


def resized(cluster: str, prefill: int, decode: int) -> str:
    """The text of a cluster file with other numbers of nodes."""
    for section, nodes in (("prefill", prefill), ("decode", decode)):
        cluster, count = re.subn(rf"(?m)^(\[{section}\]\nnodes = )\d+$", rf"\g<1>{nodes}", cluster)
        if count != 1:
            raise DualpathError(f"{CLUSTER}: the number of {section} nodes is not where it was expected")
    return cluster


def export_sessions(trace: Path, out: Path) -> None:
    """The trace in Mooncake's format, with what DynoSim adds to it: a turn is due when the one before it has ended."""
    plain = out.with_suffix(".plain.jsonl")
    export_trace("mooncake", trace, plain)
    with TraceFile.open(trace) as file, plain.open() as lines, out.open("w") as sessions:
        for row in with_sessions(map(json.loads, lines), file):
            sessions.write(json.dumps(row) + "\n")


def with_sessions(rows: Iterator[Row], trajectories: Iterable[Trajectory]) -> Iterator[Row]:
    """rows: one per turn, trajectory by trajectory, as the exporter writes a trace without gaps."""
    for trajectory in trajectories:
        for number, prompt_tokens in enumerate(trajectory.prompt_tokens()):
            row = next(rows)
            if row["input_length"] != prompt_tokens or row["timestamp"]:
                raise DualpathError(f"{trajectory.id}, turn {number}: not where it was expected in the exported trace")
            if number:
                del row["timestamp"]
            yield {**row, "session_id": trajectory.id} | ({"delay": 0} if number else {})


class Others:
    """The environment of the other simulators. A missing one is no error: `why_not` has the reason."""

    def __init__(self, folder: Path, *, install: bool) -> None:
        self._folder = folder
        self._install = install
        self.python = folder / "bin" / "python"

    def why_not(self, name: str) -> str:
        """Empty where it is there, or could be installed just now."""
        ready = self._folder / f".ready-{OTHERS[name][-1][-1]}"
        if ready.exists():
            return ""
        if not self._install:
            return f"{name} is not installed in {self._folder}, and --no-others forbids it"
        try:
            if not self.python.exists():
                venv.create(self._folder, with_pip=True)
            for arguments in OTHERS[name]:
                command = [str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
                done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=900, check=False)
                if done.returncode:
                    return f"pip install {' '.join(arguments)}: {_reason(done.stderr)}"
        except (OSError, subprocess.SubprocessError) as error:
            return f"{name} could not be installed: {error}"
        ready.touch()
        return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="default: bench/out/sim_speed; of --quick, its folder quick")
    parser.add_argument("--only", choices=GROUPS, action="append", help="this group; several times: these groups")
    parser.add_argument("--others", type=Path, default=BENCH / "out" / "side-sims", help="their environment")
    parser.add_argument("--no-others", action="store_true", help="install nothing")
    parser.add_argument("--quick", action="store_true", help="tiny counts, to see that it works: no measurement")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    options = parser.parse_args()
    size, folder = (QUICK, "sim_speed/quick") if options.quick else (FULL, "sim_speed")
    session = Session((options.out or BENCH / "out" / folder).resolve(), size, options.seed)
    others = Others(options.others.absolute(), install=not options.no_others)
    shutil.rmtree(session.scratch, ignore_errors=True)
    session.scratch.mkdir(parents=True)
    try:
        for name, measure in GROUPS.items():
            if options.only is None or name == "compile" or name in options.only:
                measure(session, others)
    except (DualpathError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("interrupted: the rows measured so far are kept", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(session.scratch, ignore_errors=True)
    return 0


def _reason(text: str) -> str:
    """The last line of what a process said that names an error, or the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it said nothing"]
    return next((line for line in reversed(lines) if "error:" in line.lower()), lines[-1])


def _shown(row: Row) -> str:
    if row["status"] != "ok":
        return f"FAILED: {row['error']}"
    if "seconds" not in row:
        return f"{row['pending']} pending"
    what = "turns" if "turns" in row and row["group"] not in ("simpy", "scheduler") else "events"
    speed = f"{row[what]:,} {what}, {row[what] / row['seconds']:,.0f} /s"
    return f"{row['seconds']:8.2f} s ({row['cpu_s']:.2f} of CPU), {speed}, load {row['load_before']:.1f}"


if __name__ == "__main__":
    sys.exit(main())
