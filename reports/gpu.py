"""The report on the GPU experiment (bench/gpu.py): every arm of Qwen2.5-7B on 1P1D, 1P2D and 2P1D.

    python reports/gpu.py [RUNS [OUT]]        default: reports/published/h200/runs reports/out/gpu

The runs of the default were measured on another machine and are published with the suite; the report says so. Exits
with 1 where a check failed.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path

from dualpath.core.arms import ARMS
from dualpath.report.experiment import (
    Cell,
    Experiment,
    bytes_checks,
    noise_checks,
    noise_floor,
    print_summary,
    ratio_check,
    share_of_same_tokens,
    tie_checks,
    utilisation_checks,
)
from dualpath.report.write import write_report_of
from dualpath.results.bound import jct_s, snic_bound
from dualpath.results.checks import Check, at_least, at_most
from dualpath.results.limits import limits_reached
from dualpath.results.metrics import summary
from dualpath.results.pooled import pooled_s

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "reports" / "published" / "h200" / "runs"
SHARING = ROOT / "reports" / "published" / "h200x2" / "runs"  # of reports/gpu_sharing.py
TITLE = "KV-cache loading on one NVIDIA H200: single path, dual path, split"

SHAPES = {"h200-1p1d": (1, 1), "h200-1p2d": (1, 2), "h200-2p1d": (2, 1)}  # prefill and decode nodes
LEAST_UTILISATION = 0.95  # of a storage NIC, where storage is what an arm waits for
JUDGED = ("layerwise", "dualpath", "split")
MOST_OVER_BOUND = 1.10  # JCT over what pooled storage NICs and all the rest, as measured, allow
TIES = (
    (("layerwise", "h200-1p1d"), ("layerwise", "h200-1p2d")),
    (("dualpath", "h200-1p1d"), ("layerwise", "h200-2p1d")),
    (("dualpath", "h200-2p1d"), ("dualpath", "h200-1p2d")),
)
TIE_LIMIT = NOISE_LIMIT = 0.05
MOST_TPOT = 1.05  # of dualpath over layerwise
LEAST_TOKENS = 0.95  # of the share of turns with equal tokens, over that of two runs of one arm


def main(runs_dir: Path = PUBLISHED, out_dir: Path = ROOT / "reports" / "out" / "gpu") -> list[Check]:
    """Read the runs, compute the checks, write the report, print a summary. Returns the checks."""
    experiment = Experiment.load("gpu", SHAPES, runs_dir)
    checks = [
        *storage_bound_checks(experiment),
        *bound_checks(experiment),
        *split_checks(experiment),
        *tie_checks(experiment, TIES, TIE_LIMIT),
        *tpot_checks(experiment),
        *bytes_checks(experiment),
        *same_tokens_checks(experiment),
        *noise_checks(experiment, NOISE_LIMIT),
    ]
    is_published = runs_dir == PUBLISHED
    title = f"{TITLE} (published, measured elsewhere)" if is_published else TITLE
    page = write_report_of(
        experiment.runs,
        out_dir,
        title=title,
        checks=checks,
        notes=notes(experiment, is_published),
        beside=("one GPU for all engines",),
    )
    if is_published:
        print("published, measured on another machine (reports/published/h200/ORIGIN.md):")
    print_summary(experiment.runs, checks, page)
    return checks


def least_s(experiment: Experiment, cell: Cell) -> tuple[float | None, float | None]:
    """What a cell's runs take at least: (storage NICs that it may read with, at their rate; all but storage, measured
    by the oracle)."""
    bounds = [bound.seconds for run in experiment.cells[cell] if (bound := snic_bound(run)) is not None]
    oracle = experiment.cells["oracle", cell[1]]
    return max(bounds, default=None), statistics.mean(map(jct_s, oracle)) if oracle else None


def is_storage_bound(experiment: Experiment, cell: Cell) -> bool:
    """Storage takes longer than all the rest; taken for granted where that is not known."""
    storage, rest = least_s(experiment, cell)
    return storage is None or rest is None or storage > rest


def storage_bound_checks(experiment: Experiment) -> Iterable[Check]:
    """Of cells where storage is the bound: elsewhere an idle storage NIC is no flaw."""
    for cluster, nodes in SHAPES.items():
        arms = [arm for arm in JUDGED if is_storage_bound(experiment, (arm, cluster))]
        yield from utilisation_checks(
            replace(experiment, shapes={cluster: nodes}), dict.fromkeys(arms, LEAST_UTILISATION)
        )


def bound_checks(experiment: Experiment) -> Iterable[Check]:
    for cluster in SHAPES:
        for arm in ("layerwise", "dualpath"):
            cells = ((arm, cluster), ("oracle", cluster))
            value, note = None, experiment.why_not(*cells)
            if not note:
                runs, oracles = (experiment.cells[cell] for cell in cells)
                pooled = [found for run, oracle in product(runs, oracles) if (found := pooled_s(run, oracle))]
                storage, rest = least_s(experiment, cells[0])
                measured = statistics.mean(map(jct_s, runs))
                value = measured / statistics.mean(pooled) if pooled else None
                note = (
                    f"{measured:.1f} s; storage NICs alone {storage:.1f} s, all else alone (oracle) {rest:.1f} s, "
                    f"turn by turn together {statistics.mean(pooled):.1f} s"
                    if pooled
                    else "native links"
                )
            what = f"{arm} on {cluster}: JCT over that of one storage NIC with all their rates and the oracle's turns"
            rows = experiment.rows(*cells)
            yield at_most(experiment.id("bound", cluster, arm), what, value, MOST_OVER_BOUND, note=note, rows=rows)


def split_checks(experiment: Experiment) -> Iterable[Check]:
    floor = noise_floor(experiment, NOISE_LIMIT)
    for cluster in SHAPES:
        id = experiment.id("split", cluster)
        what = f"split no slower than dualpath on {cluster}: JCT dualpath / split"
        note = f"bound is 1 less what A against A differs by, {floor:.1%}"
        yield ratio_check(experiment, id, what, "dualpath", "split", cluster, 1 - floor, note)


def tpot_checks(experiment: Experiment) -> Iterable[Check]:
    for cluster in SHAPES:
        cells = tuple((arm, cluster) for arm in ("dualpath", "layerwise", "oracle"))
        value, note = None, experiment.why_not(*cells)
        if not note:
            ours, base, oracle = (
                statistics.mean(summary(run)["tpot"] or 0.0 for run in experiment.cells[cell]) for cell in cells
            )
            value = ours / base
            note = f"{ours / 1e6:.1f} and {base / 1e6:.1f} ms; oracle, which loads nothing, {oracle / 1e6:.1f} ms"
        what = f"TPOT of dualpath over layerwise on {cluster}"
        yield at_most(experiment.id("tpot", cluster), what, value, MOST_TPOT, note=note, rows=experiment.rows(*cells))


def same_tokens_checks(experiment: Experiment) -> Iterable[Check]:
    """In 16 bits, and with random weights whose logits nearly tie, even two runs of one arm choose other tokens in many
    turns, as their batches differ. Arms must differ no more than that."""
    repeated = [runs for (arm, _), runs in experiment.cells.items() if arm == "layerwise" and len(runs) > 1]
    same = [share_of_same_tokens(runs[0], runs[1]) for runs in repeated]
    for cluster in SHAPES:
        base = ("layerwise", cluster)
        for arm in ARMS:
            cell = (arm, cluster)
            if arm == "layerwise" or not ARMS[arm].moves_kv:
                continue
            value, note = None, experiment.why_not(cell, base) or ("" if same else "layerwise was not repeated")
            if not note:
                share = min(share_of_same_tokens(run, experiment.cells[base][0]) for run in experiment.cells[cell])
                value = share / min(same)
                note = f"{share:.1%} of turns; A against A {', '.join(f'{each:.1%}' for each in same)}"
            what = (
                f"{arm} on {cluster}: turns with the tokens of layerwise, over those that two runs of layerwise share"
            )
            id, rows = experiment.id("tokens", cluster, arm), experiment.rows(cell, base)
            yield at_least(id, what, value, LEAST_TOKENS, note=note, rows=rows)


def notes(experiment: Experiment, is_published: bool) -> list[str]:
    """What these runs show and what they do not, in their own numbers."""
    runs = [run for runs in experiment.cells.values() for run in runs if ARMS[run.arm].moves_kv]
    if not runs:
        return []
    use, reached = runs[0].manifest.trace, [limits_reached(run) for run in runs]
    repeats = sorted({len(found) for found in experiment.cells.values()})
    found = [
        f"The workload is a slice of {use.name} that one GPU can compute: {use.agents} agents, lengths by {use.scale}, "
        f"contexts of up to {use.max_len:,} tokens. Storage is a file system in memory: storage NICs are paced, disks "
        "are not what is measured.",
        "All engines share one GPU, through MPS: a decode step beside a prefill pass takes longer than alone, and more "
        "engines get no more compute. An arm that loads faster also decodes more requests at once, so TPOT says "
        "little between arms; the oracle's, under still more load, is beside it. Where three storage NICs outrun "
        "the GPU, the oracle is the bound, and runs with three NICs need not tie. " + what_sharing_distorts(),
        "What shapes the scheduler's choices, and how near it the busiest run came: "
        + "; ".join(f"{name}: {max(each[name] for each in reached):.0%}" for name in reached[0])
        + ".",
        "The steady window begins when every agent has ended its first turn. Contexts are short then and computing is "
        "what takes time: in the first seconds of the window storage NICs are not yet full, which is most of what they "
        "lack to 100 %.",
        f"Repeats of a cell: {' to '.join(str(num) for num in sorted({repeats[0], repeats[-1]}))}. Where there is one, "
        "its noise is not known.",
    ]
    if is_published:
        found.insert(0, "Published, measured elsewhere: nothing here was measured on the machine that wrote this page.")
    return found


def what_sharing_distorts() -> str:
    one, two = (Experiment.load("gpu", SHAPES, SHARING / setting) for setting in ("one-gpu", "two-gpus"))
    changes = (
        f"{arm} {statistics.mean(map(jct_s, two.cells[cell])) / statistics.mean(map(jct_s, one.cells[cell])) - 1:+.1%}"
        for arm in (*JUDGED, "oracle")
        for cell in [(arm, "h200-1p1d")]
    )
    return (
        "What sharing distorts was measured on two H200s of one host: on h200-1p1d a GPU for each engine changes the "
        f"JCT of {', '.join(changes)}. reports/gpu_sharing.py says what that does to the conclusions, and has three "
        "engines."
    )


if __name__ == "__main__":
    found = main(*(Path(argument).resolve() for argument in sys.argv[1:3]))
    sys.exit(0 if all(check.passed for check in found) else 1)
