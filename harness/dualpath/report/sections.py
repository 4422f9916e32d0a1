"""What a report says, in order: sections of prose, figures and tables. Page and Markdown print the same list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dualpath.report import figures_speed, figures_time, latency_tables, tables
from dualpath.report.caveats import beside
from dualpath.report.cells import Evidence
from dualpath.report.figure import Figure
from dualpath.report.table import Table
from dualpath.results.checks import Check

NOISE_LIMIT = 0.03


@dataclass(frozen=True, slots=True)
class Section:
    """`caveats`: a few words each, of what weakens its numbers; they stand by each of its figures and tables."""

    id: str
    title: str
    text: str
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    is_folded: bool = False  # long tables, closed at first
    caveats: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tile:
    """One headline number. `caveats`: a few words each, of what weakens it."""

    label: str
    value: str
    detail: str
    caveats: tuple[str, ...] = ()


def headline(evidence: Evidence, checks: Sequence[Check], more: Sequence[str] = ()) -> list[Tile]:
    """Speed-up of dualpath over layerwise per group, and how many checks passed. more: caveats of every speed-up."""
    tiles = []
    for group in evidence.groups:
        cell = evidence.cell(group, "dualpath")
        found = evidence.speed_up(cell, "layerwise") if cell else None
        baseline = evidence.cell(group, "layerwise")
        if cell is None or found is None or baseline is None:
            continue
        nics = f"{cell.num_snics} storage NICs instead of {baseline.num_snics}"
        value = f"{found.speed_up.value:.2f}×"
        tiles.append(
            Tile(f"dualpath over layerwise · {group}", value, nics, (*beside(evidence, baseline, cell), *more))
        )
    if checks:
        passed = sum(check.passed for check in checks)
        tiles.append(Tile("checks passed", f"{passed} / {len(checks)}", "each with its bound, below"))
    if evidence.void:
        label = "void run" if len(evidence.void) == 1 else "void runs"
        tiles.append(Tile(label, str(len(evidence.void)), "not used in any number"))
    return tiles


def sections(evidence: Evidence, checks: Sequence[Check], more: Sequence[str] = ()) -> list[Section]:
    """Every section that has something to show. more: caveats of every number that was measured."""
    words = (*beside(evidence), *more)
    found = [
        *_checks(checks),
        Section(
            "speed",
            "How much faster",
            "Arms are compared within one cluster and workload, trajectory by trajectory. A speed-up is a ratio of job "
            "completion times, read against the analytic bound, the utilisation of the links and the noise floor.",
            _some(
                figures_speed.ties(evidence),
                figures_speed.speed_ups(evidence, "layerwise"),
                figures_speed.speed_ups(evidence, "basic") if not _has(evidence, "layerwise") else None,
            ),
            _filled(tables.speed(evidence)),
            caveats=words,
        ),
        Section(
            "utilisation",
            "What the links did",
            "Single-path loading leaves the storage NICs of the decode nodes idle; the other arms may use them all.",
            _some(*(figures_time.nic_utilisation(evidence, group, "snic") for group in evidence.groups)),
            _filled(tables.balances(evidence), tables.windows(evidence)),
            caveats=words,
        ),
        Section(
            "balance",
            "Balance between storage NICs",
            "Pooled bandwidth is worth something only while all of it is in use.",
            _some(figures_time.balance_over_time(evidence)),
            caveats=words,
        ),
        Section(
            "compute-nics",
            "Compute NICs",
            "The second path crosses the compute NICs. They must have room for it, or the bottleneck has only moved.",
            _some(*(figures_time.nic_utilisation(evidence, group, "cnic") for group in evidence.groups)),
            caveats=words,
        ),
        Section(
            "latency",
            "What a turn waits for",
            "",
            _some(figures_speed.ttft_parts(evidence)),
            _filled(
                latency_tables.latency(evidence),
                latency_tables.differences(evidence),
                latency_tables.send_lags(evidence),
                tables.throughput(evidence),
            ),
            caveats=words,
        ),
        Section("completion", "How the runs went", "", _some(figures_time.completion(evidence)), caveats=words),
        Section(
            "noise",
            "Noise and the harness itself",
            "" if any(len(cell.runs) > 1 for cell in evidence.cells) else
            "No configuration was run more than once, so the noise floor of these numbers is not known.",
            _some(figures_speed.a_against_a(evidence, NOISE_LIMIT)),
            _filled(tables.noises(evidence), tables.overhead(evidence), tables.warm_ups(evidence)),
        ),
        Section("void", "Void runs", "", (), _filled(tables.voids(evidence), latency_tables.void_latency(evidence))),
        Section(
            "stand-ins",
            "What is real and what stands in",
            "Nothing in this report comes from hardware that is not in this table.",
            (),
            _filled(tables.stand_ins(evidence), tables.storages(evidence)),
        ),
        Section("bytes", "Bytes per resource", "", (), _filled(tables.resource_bytes(evidence)), is_folded=True),
        Section("metrics", "Definitions", "", (), (tables.definitions(),), is_folded=True),
        Section("provenance", "Provenance", "", (), _filled(tables.provenance(evidence)), is_folded=True),
    ]  # fmt: skip
    return [section for section in found if section.figures or section.tables]


def _checks(checks: Sequence[Check]) -> list[Section]:
    """What failed, in the open; then every check, folded."""
    failed = [check for check in checks if not check.passed]
    text = "Every number this report had to show, with the bound it was held against; checks.json has the same rows."
    return [
        Section("failed", "Checks that failed", "", (), _filled(tables.checks_table("Checks that failed", failed))),
        Section("checks", "Checks", text, (), _filled(tables.checks_table("Checks", checks)), is_folded=True),
    ]


def _has(evidence: Evidence, arm: str) -> bool:
    return any(cell.arm == arm for cell in evidence.cells)


def _some(*figures: Figure | None) -> tuple[Figure, ...]:
    return tuple(figure for figure in figures if figure is not None)


def _filled(*found: Table) -> tuple[Table, ...]:
    return tuple(entry for entry in found if entry.rows)
