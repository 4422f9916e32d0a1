"""The two sides of a gate: a checkout each, in which commands run with that side's own code.

Packages other than this one are shared: a gate is about a change of the code, not of what it is installed with.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dualpath.core.errors import PlanError
from dualpath.gate.spec import Words, fill

Label = Literal["base", "candidate"]
_CLI = [sys.executable, "-c", "from dualpath.cli import main; main()"]
_PATIENCE_S = 10.0  # after Ctrl-C
_LAST_LINES = 5  # of a command that failed


@dataclass(frozen=True, slots=True)
class Side:
    """A checkout, and what its words stand for."""

    label: Label
    root: Path
    commit: str  # short, with "+" where files were changed
    words: Words = field(default_factory=dict)

    def __str__(self) -> str:
        words = ", ".join(f"{key} {value}" for key, value in self.words.items())
        return f"{self.commit} ({words})" if words else self.commit

    def filled(self, text: str, out: Path) -> list[str]:
        """A specification's command. Words are filled after it is split: a folder's name may have blanks."""
        words = {**self.words, "out": str(out)}
        return self.command([fill(word, words) for word in shlex.split(text)])

    def command(self, words: Sequence[str]) -> list[str]:
        """`dualpath` and `python` are this side's and this interpreter."""
        first, *rest = words
        return [*{"dualpath": _CLI, "python": [sys.executable]}.get(first, [first]), *rest]

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """Python finds this side's package before the installed one; and what is compiled here is not taken there."""
        ours = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
        return {**ours, "PYTHONPATH": str(self.root / "harness"), "PYTHONHASHSEED": "0", **more}


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that has ended. problem: why it is no measurement; empty if it is one."""

    out: Path
    wall_s: float
    problem: str


@dataclass(frozen=True, slots=True)
class Job:
    """A command for a side's checkout; `out` is the command's to make. What it says goes beside it, to OUT.log."""

    side: Side
    command: list[str]
    out: Path
    environment: Mapping[str, str] = field(default_factory=dict)  # what is added to it

    @property
    def log(self) -> Path:
        return self.out.with_name(self.out.name + ".log")


def run(job: Job) -> Ran:
    """One command, with nothing of ours beside it."""
    return run_together([job])[0]


def run_together(jobs: Sequence[Job]) -> list[Ran]:
    """All at once, for what does not mind; in order. Ctrl-C ends them, too."""
    started_s = time.monotonic()
    found: list[Ran] = []
    processes: list[subprocess.Popen[bytes] | str] = []
    with ExitStack() as open_ones:
        try:
            processes += (_start(job, open_ones) for job in jobs)
            for job, process in zip(jobs, processes, strict=True):
                problem = process if isinstance(process, str) else _problem(job, process.wait())
                found.append(Ran(job.out, time.monotonic() - started_s, problem))
        except BaseException:
            running = [process for process in processes if not isinstance(process, str)]
            for process in running:
                process.send_signal(signal.SIGINT)
            for process in running:
                try:
                    process.wait(_PATIENCE_S)
                except subprocess.TimeoutExpired:  # under valgrind all takes long
                    process.kill()
                    process.wait()
            raise
    return found


def _start(job: Job, open_ones: ExitStack) -> subprocess.Popen[bytes] | str:
    """The process, or why there is none."""
    job.out.parent.mkdir(parents=True, exist_ok=True)
    log = open_ones.enter_context(job.log.open("w"))
    environment = job.side.environment(job.environment)
    try:
        return subprocess.Popen(job.command, cwd=job.side.root, env=environment, stdout=log, stderr=subprocess.STDOUT)
    except OSError as error:
        return f"{job.command[0]}: {error.strerror}"


def _problem(job: Job, status: int) -> str:
    return f"{job.side.label} ended with {status}: {_last(job.log)} ({job.log})" if status else ""


def checkout(label: Label, where: str, into: Path, words: Words) -> Side:
    """A folder as it is, or a commit of the checkout that we are in, cloned to `into`. Raises PlanError."""
    if Path(where).is_dir():
        root = Path(where).resolve()
        if not (root / "harness" / "dualpath").is_dir():
            raise PlanError(f"--{label} {where}: no checkout of this suite (harness/dualpath is not there)")
        at = _git(root, "rev-parse", "--short=10", "HEAD") or "no commit"
        return Side(label, root, at + "+" * bool(_git(root, "status", "--porcelain")), words)
    commit = _git(Path(), "rev-parse", "--short=10", f"{where}^{{commit}}")
    source = _git(Path(), "rev-parse", "--show-toplevel")
    if not commit or not source:
        raise PlanError(
            f"--{label} {where!r} is neither a folder nor a commit of the checkout that you are in; in a shallow "
            "clone, fetch its history first"
        )
    root = into.resolve()
    if not root.exists():
        root.parent.mkdir(parents=True, exist_ok=True)
        if _git(Path(), "clone", "--quiet", "--shared", "--no-checkout", source, str(root)) is None:
            raise PlanError(f"--{label} {where}: cannot be cloned to {root}; choose another -o")
    if _git(root, "rev-parse", "--show-toplevel") != str(root):  # git would look for one further up
        raise PlanError(f"--{label} {where}: {root} is there, but no clone; delete it, or choose another -o")
    if _git(root, "checkout", "--quiet", "--force", "--detach", commit) is None:
        raise PlanError(f"--{label} {where}: {root} cannot be set to {commit}; delete it, or choose another -o")
    return Side(label, root, commit, words)


def _git(where: Path, *arguments: str) -> str | None:
    """What it says; None where it fails. In a hook, git's variables name another repository than the folder's."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(where), *arguments]
    try:
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def _last(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-_LAST_LINES:])[-500:] or "it said nothing"
