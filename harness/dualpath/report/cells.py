"""Runs sorted into cells of a table: one cluster x arm x workload each, with its repeats. Void runs are kept apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from dualpath.core.arms import ARMS
from dualpath.core.errors import RunError
from dualpath.results.bound import Bound, jct_s, snic_bound
from dualpath.results.compare import Comparison, compare
from dualpath.results.metrics import summary
from dualpath.results.run import Run


@dataclass(frozen=True)
class Cell:
    """Repeats of one configuration, results only. Numbers are means over the repeats unless said otherwise."""

    group: str  # the cluster's name, and what tells its workloads apart where it ran several
    workload: tuple[object, ...]
    arm: str
    runs: tuple[Run, ...]  # by repeat

    def __post_init__(self) -> None:
        for run in self.runs:
            if run.void:
                raise RunError(f"{run.directory} is void ({'; '.join(run.reasons)}): no figure or mean may use it")

    @cached_property
    def jcts_s(self) -> tuple[float, ...]:
        return tuple(jct_s(run) for run in self.runs)

    @property
    def jct_s(self) -> float:
        return sum(self.jcts_s) / len(self.jcts_s)

    @cached_property
    def middle(self) -> Run:
        """The repeat with the (lower) median JCT: the one that figures over time show."""
        order = sorted(range(len(self.runs)), key=lambda index: self.jcts_s[index])
        return self.runs[order[(len(order) - 1) // 2]]

    @cached_property
    def numbers(self) -> dict[str, float | None]:
        """Every summary metric in its raw unit; None where a repeat does not have it."""
        found = [summary(run) for run in self.runs]
        return {tag: _mean([numbers[tag] for numbers in found]) for tag in found[0]}

    @cached_property
    def bound(self) -> Bound | None:
        return snic_bound(self.middle)

    @property
    def num_snics(self) -> int:
        """Storage NICs the arm may read with."""
        return len(self.middle.read_nodes())

    @property
    def directories(self) -> tuple[str, ...]:
        return tuple(str(run.directory) for run in self.runs)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything a report may show."""

    runs: tuple[Run, ...]
    cells: tuple[Cell, ...]  # by group, then arm in the order of the paper's ablation
    void: tuple[Run, ...]
    null: tuple[Run, ...]  # of the null engine: they measure the harness, not an arm

    @property
    def groups(self) -> list[str]:
        return list(dict.fromkeys(cell.group for cell in self.cells))

    def of_group(self, group: str) -> list[Cell]:
        return [cell for cell in self.cells if cell.group == group]

    def cell(self, group: str, arm: str) -> Cell | None:
        return next((cell for cell in self.cells if (cell.group, cell.arm) == (group, arm)), None)

    def speed_up(self, cell: Cell, baseline_arm: str) -> Comparison | None:
        """Of `cell` over the baseline arm of its group; None for the baseline itself, or without one."""
        baseline = self.cell(cell.group, baseline_arm)
        return None if baseline is None or baseline is cell else compare(baseline.runs, cell.runs)


def gather(runs: Iterable[Run]) -> Evidence:
    """Sort runs into cells."""
    runs = tuple(runs)
    results = [run for run in runs if not run.void and run.manifest.backend != "null"]
    names = _group_names(results)
    sorted_runs: dict[tuple[str, tuple[object, ...], str], list[Run]] = {}
    for run in results:
        sorted_runs.setdefault((names[_group(run)], _workload(run), run.arm), []).append(run)
    cells = [
        Cell(group, workload, arm, tuple(sorted(found, key=lambda run: run.manifest.repeat)))
        for (group, workload, arm), found in sorted_runs.items()
    ]
    return Evidence(
        runs=runs,
        cells=tuple(sorted(cells, key=lambda cell: (cell.group, arm_order(cell.arm)))),
        void=tuple(run for run in runs if run.void),
        null=tuple(run for run in runs if run.manifest.backend == "null" and not run.void),
    )


def arm_order(arm: str) -> tuple[int, str]:
    """Sort key: the paper's ablation order, then arms of one's own by name."""
    order = list(ARMS)
    return (order.index(arm) if arm in order else len(order), arm)


def _mean(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if len(present) == len(values) else None


def _workload(run: Run) -> tuple[object, ...]:
    return tuple(run.workload.values())


_WORDS = {  # of Run.setting and Run.workload, and in their order; what is None has no words
    "prefill": "prefill {}",
    "decode": "decode {}",
    "snic_bytes_per_s": "SNIC {:,.0f} B/s",
    "cnic_bytes_per_s": "CNIC {:,.0f} B/s",
    "block_tokens": "blocks of {} tokens",
    "transport": "over {}",
    "verify": "verified {}",
    "constants": "{}",
    "factors": "{}",
    "backend": "{}",
    "deterministic": "deterministic {}",
    "model": "model {}",
    "trace": "trace {}",
    "sha256": "sha256 {}",
    "scale": "scale {}",
    "max_len": "max length {}",
    "append_factor": "appends x {}",
    "generate_factor": "outputs x {}",
    "agents": "{} agents",
    "seed": "seed {}",
    "mode": "{}",
    "rate_per_s": "{:g} agents/s",
    "gap_scale": "gaps x {:g}",
    "gap_s": "gaps of {:g} s",
}
_OF_CLUSTER = ("prefill", "decode", "snic_bytes_per_s", "cnic_bytes_per_s", "block_tokens")
_WITHOUT_VALUE = {  # of others, the mode says that they have none
    "snic_bytes_per_s": "SNIC native",
    "cnic_bytes_per_s": "CNIC native",
    "max_len": "max length as is",
    "seed": "no seed",
}


def _group(run: Run) -> tuple[object, ...]:
    return (*run.setting.values(), *_workload(run))


def _group_names(runs: list[Run]) -> dict[tuple[object, ...], str]:
    """Group -> name: the cluster's, followed by those parts of setting and workload that tell groups apart."""
    groups = {_group(run): run for run in runs}
    facts = {group: {**run.setting, **run.workload} for group, run in groups.items()}
    varying = [name for name in _WORDS if _varies(name, list(facts.values()))]
    return {
        group: " · ".join(filter(None, [str(each["cluster"]), *(_words(name, each[name]) for name in varying)]))
        for group, each in facts.items()
    }


def _varies(name: str, facts: list[dict[str, object]]) -> bool:
    """Of what a cluster file says: among files of one name, which says the rest."""
    values = {(each["cluster"] if name in _OF_CLUSTER else None, each[name]) for each in facts}
    return len(values) > len({cluster for cluster, _ in values})


def _words(name: str, value: object) -> str:
    """Empty where there is nothing to say: an offline run has no rate."""
    return _WITHOUT_VALUE.get(name, "") if value is None else _WORDS[name].format(value)
