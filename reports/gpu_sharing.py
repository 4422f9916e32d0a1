"""What sharing one GPU distorts in the GPU experiment (reports/gpu.py): its runs on one GPU and on two of one host.

    python reports/gpu_sharing.py [RUNS [OUT]]     default: reports/published/h200x2/runs reports/out/gpu_sharing

RUNS has one-gpu/ and two-gpus/, each as bench/gpu.py leaves it, measured side by side. Beside them stands what the
simulator says of one GPU and of one for each engine, where bench/sim_vs_real.py --published has left that. The runs of
the default were measured on another machine and are published with the suite; the report says so. Exits with 1 where a
check failed.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
from dualpath.core.arms import ARMS
from dualpath.report import style, tables
from dualpath.report.cells import gather
from dualpath.report.experiment import Cell, Experiment, noise_floor, utilisation_checks
from dualpath.report.figure import Figure, finish
from dualpath.report.near import near
from dualpath.report.sections import Section, Tile
from dualpath.report.style import INK, SOFT_INK, arm_colour, rules
from dualpath.report.table import NONE, Table, number, per_cent, table
from dualpath.report.write import write_page
from dualpath.results.bound import jct_s
from dualpath.results.checks import Check, at_least, at_most
from dualpath.results.links import steady_load_utilisation
from dualpath.results.metrics import gap_closed, summary
from dualpath.results.pooled import pooled_s
from dualpath.results.run import Run
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "reports" / "published" / "h200x2" / "runs"
SIMULATED = ROOT / "bench" / "out" / "sim_vs_h200"
TITLE = "What sharing one GPU distorts: the same runs on one NVIDIA H200 and on two"

SHAPES = {"h200-1p1d": (1, 1), "h200-1p2d": (1, 2), "h200-2p1d": (2, 1)}  # prefill and decode nodes
APART = "h200-1p1d"  # where two GPUs are one for each engine
JUDGED = ("layerwise", "dualpath", "split")  # wait for storage there
MOST_DISTORTED = NOISE_LIMIT = 0.05  # of a JCT
LEAST_UTILISATION = 0.95  # of a storage NIC, as in reports/gpu.py
SETTINGS = ("one GPU", "two GPUs", "simulated, one GPU", "simulated, one for each engine")
WIDTH_IN = 7.6

HOW = [
    "All runs are of one machine with two GPUs, minutes apart: with one GPU for all engines, as in the GPU experiment, "
    "and with both, which engines take in turn. MPS is on in both settings, and in both KV goes from engine to engine "
    "through host memory. So what differs is the GPU's multiprocessors, its memory and its PCIe link; host memory and "
    "cores are shared either way. There are few repeats, and none where a cell has one run.",
    "With one prefill and one decode engine two GPUs are one for each, and the difference is all that sharing one "
    "distorts. Of three engines the first and the third still share a GPU (1P2D: the prefill engine and a decode "
    "engine; 2P1D: a prefill engine and the decode engine), and the difference is the least that sharing one distorts.",
    "The simulator has the profile of one H200, measured on another machine of the kind, and knows nothing of these "
    "runs. Its numbers are of one GPU for all engines and of one for each, also where there are three.",
]
CONCLUSIONS = (
    "Sharing a GPU slows passes and steps. An arm that waits for storage hides that, layerwise with one storage NIC "
    "most of all; the oracle, which reads nothing, hides none of it. So what dualpath gains over layerwise on one GPU "
    "is a lower bound of what it gains where each engine has its own. The share that it closes of the gap between "
    "layerwise and the oracle is an upper bound: with more GPUs the oracle ends much sooner, and full storage NICs "
    "cannot follow. The checks hold both against what was measured. What sharing does not explain: dualpath is as far "
    "from its bound with more GPUs, or farther, most so where three storage NICs are not full; and its TPOT is above "
    "that of layerwise where each engine has a GPU of its own, too."
)


class Sharing(NamedTuple):
    """Four times the same runs."""

    one: Experiment  # measured on one GPU
    two: Experiment  # and on two
    simulated: Experiment  # with one GPU
    apart: Experiment  # and with one for each engine

    @classmethod
    def load(cls, measured: Path, simulated: Path) -> Sharing:
        folders = measured / "one-gpu", measured / "two-gpus", simulated / "sim", simulated / "unshared"
        return cls(*(Experiment.load("gpu-sharing", SHAPES, folder) for folder in folders))

    @property
    def cells(self) -> list[Cell]:
        """That were measured both ways."""
        return [(arm, at) for at, arm in product(SHAPES, ARMS) if self.one.cells[arm, at] and self.two.cells[arm, at]]

    def why_not(self, *cells: Cell) -> str:
        """Why measured values over these cells cannot be compared; empty if they can."""
        found = (("one GPU", self.one.why_not(*cells)), ("two GPUs", self.two.why_not(*cells)))
        return "; ".join(f"{name}: {why}" for name, why in found if why)

    def rows(self, *cells: Cell) -> tuple[str, ...]:
        return (*self.one.rows(*cells), *self.two.rows(*cells))


def main(
    runs_dir: Path = PUBLISHED, out_dir: Path = ROOT / "reports" / "out" / "gpu_sharing", simulated: Path = SIMULATED
) -> list[Check]:
    """Read the runs, compute the checks, write the report, print a summary. Returns the checks."""
    style.apply()
    sharing = Sharing.load(runs_dir, simulated)
    checks = [*jct_checks(sharing), *conclusion_checks(sharing), *full_checks(sharing)]
    failed = [check for check in checks if not check.passed]
    measured = gather([*sharing.one.runs, *sharing.two.runs])
    figure, conclusions = jct_figure(sharing), conclusions_table(sharing)
    sections = [
        Section("failed", "Checks that failed", "", (), (tables.checks_table("Checks that failed", failed),)),
        Section("runs", "The same runs", "", (figure,) if figure else (), (runs_table(sharing),)),
        Section("conclusions", "What follows", CONCLUSIONS, (), (conclusions,)),
        Section("checks", "Checks", "", (), (tables.checks_table("Checks", checks),), is_folded=True),
        Section("provenance", "Provenance", "", (), (tables.provenance(measured),), is_folded=True),
    ]
    is_published = runs_dir == PUBLISHED
    elsewhere = "Published, measured elsewhere: nothing here was measured on the machine that wrote this page."
    page = write_page(
        out_dir,
        title=f"{TITLE} (published, measured elsewhere)" if is_published else TITLE,
        tiles=tiles(sharing, checks),
        caveats=[elsewhere, *HOW] if is_published else HOW,
        sections=[section for section in sections if section.figures or any(found.rows for found in section.tables)],
        counts=(len(measured.runs), len(measured.void)),
        checks=checks,
    )
    if is_published:
        print("published, measured on another machine (reports/published/h200x2/ORIGIN.md):")
    for row in conclusions.rows:
        print("  ".join(row))
    for check in failed:
        print(f"FAIL {check.id}: {check.value} (bound {check.bound}) {check.note}")
    print(f"{len(checks) - len(failed)} of {len(checks)} checks passed; report: {near(page)}")
    return checks


def jct(experiment: Experiment, cell: Cell) -> float | None:
    """In seconds; this and what follows: the median of a cell's runs, None where it has none."""
    return _middle(jct_s, experiment.cells[cell])


def tpot_ns(experiment: Experiment, cell: Cell) -> float | None:
    return _middle(lambda run: summary(run)["tpot"], experiment.cells[cell])


def used(experiment: Experiment, cell: Cell) -> float | None:
    """Of the storage NICs that the arm may read with, in the steady window."""
    return _middle(_used, experiment.cells[cell])


def _used(run: Run) -> float | None:
    found = steady_load_utilisation(run)
    present = [value for node in run.read_nodes() if found and (value := found[run.node_name(node)]) is not None]
    return statistics.mean(present) if present else None


def _middle(of: Callable[[Run], float | None], runs: Iterable[Run]) -> float | None:
    present = [value for value in map(of, runs) if value is not None]
    return statistics.median(present) if present else None


def ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def gain(experiment: Experiment, cluster: str) -> float | None:
    """JCT of layerwise over that of dualpath."""
    return ratio(jct(experiment, ("layerwise", cluster)), jct(experiment, ("dualpath", cluster)))


def closed(experiment: Experiment, cluster: str) -> float | None:
    """Share of the gap between layerwise and the oracle that dualpath closes."""
    ours, base, oracle = (jct(experiment, (arm, cluster)) for arm in ("dualpath", "layerwise", "oracle"))
    return gap_closed(ours, base, oracle) if ours and base and oracle else None


def over_bound(experiment: Experiment, cluster: str) -> float | None:
    """JCT of dualpath over that of one storage NIC with all their rates and the oracle's turns."""
    pairs = product(experiment.cells["dualpath", cluster], experiment.cells["oracle", cluster])
    bounds = [bound for run, oracle in pairs if (bound := pooled_s(run, oracle))]
    return ratio(jct(experiment, ("dualpath", cluster)), statistics.median(bounds) if bounds else None)


def jct_checks(sharing: Sharing) -> Iterable[Check]:
    """What sharing distorts at most, where two GPUs are one for each engine and storage is what arms wait for."""
    for arm in JUDGED:
        cell = (arm, APART)
        found, note = ratio(jct(sharing.two, cell), jct(sharing.one, cell)), sharing.why_not(cell)
        if found is not None:
            lists = (", ".join(f"{jct_s(run):.2f}" for run in side.cells[cell]) for side in (sharing.one, sharing.two))
            note = f"{' s, with two '.join(lists)} s; simulated {_change(_simulated(sharing, cell))}"
        what = f"{arm} on {APART}: JCT with a GPU for each engine over that with one for both, less 1, either way"
        value = None if found is None else abs(found - 1)
        id, rows = sharing.one.id("jct", APART, arm), sharing.rows(cell)
        yield at_most(id, what, value, MOST_DISTORTED, note=note, rows=rows)


def conclusion_checks(sharing: Sharing) -> Iterable[Check]:
    """Whether one GPU makes dualpath's gain look too small, and its share of the gap too large, as the page says."""
    floor = max(noise_floor(experiment, NOISE_LIMIT) for experiment in (sharing.one, sharing.two))
    for cluster in SHAPES:
        cells = tuple((arm, cluster) for arm in ("layerwise", "dualpath", "oracle"))
        for name, of, judge, limit, what in (
            ("gain", gain, at_least, 1 - floor, "dualpath over layerwise"),
            ("gap", closed, at_most, 1 + floor, "share of the gap from layerwise to the oracle that dualpath closes"),
        ):
            one, two, note = of(sharing.one, cluster), of(sharing.two, cluster), sharing.why_not(*cells)
            value = ratio(two, one) if not note else None
            note = note or f"{number(one)} and {number(two)}; A against A differs by {floor:.1%}"
            what = f"{what} on {cluster}: with two GPUs over with one"
            yield judge(sharing.one.id(name, cluster), what, value, limit, note=note, rows=sharing.rows(*cells))


def full_checks(sharing: Sharing) -> Iterable[Check]:
    """With a GPU for each engine storage NICs are full: what they lack on one GPU, the GPU takes."""
    apart = replace(sharing.two, shapes={APART: SHAPES[APART]})
    return utilisation_checks(apart, dict.fromkeys(JUDGED, LEAST_UTILISATION))


def tiles(sharing: Sharing, checks: list[Check]) -> list[Tile]:
    of_jct = [check.value for check in checks if ".jct." in check.id and check.value is not None]
    gains, shares = ([of(side, APART) for side in (sharing.one, sharing.two)] for of in (gain, closed))
    return [
        Tile(f"sharing costs at most · {APART}", per_cent(max(of_jct, default=None)), "of the JCT of arms that load"),
        Tile(f"dualpath over layerwise · {APART}", " → ".join(map(_times, gains)), "one GPU → one for each engine"),
        Tile(f"gap to the oracle closed · {APART}", " → ".join(map(per_cent, shares)), "likewise"),
        Tile("checks passed", f"{sum(check.passed for check in checks)} / {len(checks)}", "each with its bound, below"),
    ]


def runs_table(sharing: Sharing) -> Table:
    rows = []
    for cell in sharing.cells:
        one, two, simulated, apart = (jct(experiment, cell) for experiment in sharing)
        row = [cell[1], cell[0], f"{len(sharing.one.cells[cell])} + {len(sharing.two.cells[cell])}"]
        row += [number(one), number(two), _change(ratio(two, one))]
        row += [number(simulated), number(apart), _change(ratio(apart, simulated))]
        row += [per_cent(used(side, cell)) for side in (sharing.one, sharing.two)]
        rows.append(row + [number(tpot_ns(side, cell), 1e-6) for side in (sharing.one, sharing.two)])
    columns = ["cluster|", "arm|", "runs", "JCT, s: one GPU", "two GPUs", "change"]
    columns += ["simulated: one GPU", "one for each engine", "change"]
    columns += ["storage NICs in use: one GPU", "two GPUs", "TPOT, ms: one GPU", "two GPUs"]
    note = (
        f"Medians over the runs. On {APART} two GPUs are one for each engine, as in the last simulation; elsewhere the "
        "simulator has one GPU more. Storage NICs: those that the arm may read with, in the steady window. Faster "
        "steps bring agents back to them sooner: where they are full, a turn waits longer for its reads instead."
    )
    return table("One GPU and two", columns, rows, note)


def conclusions_table(sharing: Sharing) -> Table:
    rows = [
        [
            cluster,
            name,
            _times(gain(experiment, cluster)),
            per_cent(closed(experiment, cluster)),
            number(over_bound(experiment, cluster)),
            number(ratio(*(tpot_ns(experiment, (arm, cluster)) for arm in ("dualpath", "layerwise")))),
        ]
        for name, experiment in zip(SETTINGS, sharing, strict=True)
        for cluster in SHAPES
        if gain(experiment, cluster)
    ]
    rows.sort(key=lambda row: row[0])
    columns = ["cluster|", "|", "over layerwise", "gap to the oracle closed", "JCT over its bound"]
    columns += ["TPOT over layerwise's"]
    note = (
        "Gap closed: (layerwise - dualpath) / (layerwise - oracle), of JCTs. Bound: one storage NIC with the rates of "
        "all, then the oracle's turns, as in the GPU report."
    )
    return table("Dual-path loading on one GPU and on two", columns, rows, note)


def jct_figure(sharing: Sharing) -> Figure | None:
    clusters = list(dict.fromkeys(cluster for _, cluster in sharing.cells))
    if not clusters:
        return None
    arms = [arm for arm in ARMS if any(arm == each for each, _ in sharing.cells)]
    size = (WIDTH_IN, 0.9 + 0.42 * len(arms))
    drawing, panels = plt.subplots(1, len(clusters), figsize=size, sharey=True, squeeze=False)
    for axes, cluster in zip(panels[0], clusters, strict=True):
        for cell in (cell for cell in sharing.cells if cell[1] == cluster):
            row, colour = arms.index(cell[0]), arm_colour(cell[0])
            one, two = jct(sharing.one, cell) or 0.0, jct(sharing.two, cell) or 0.0
            for place, mean, alpha, side in ((row - 0.17, one, 0.45, sharing.one), (row + 0.17, two, 1.0, sharing.two)):
                axes.barh(place, mean, height=0.3, color=colour, alpha=alpha, linewidth=0)
                for run in side.cells[cell]:
                    axes.plot(jct_s(run), place, "o", color=INK, markersize=2.5)
            expected = _simulated(sharing, cell)
            if expected is not None:
                axes.plot(one * expected, row + 0.17, "|", color=INK, markersize=10)
            at, text = (max(one, two), row), f"{two / one - 1:+.1%}"
            axes.annotate(text, at, xytext=(5, 0), textcoords="offset points", va="center", size=8, color=SOFT_INK)
        axes.set_title(cluster)
        axes.set_xlim(0, axes.get_xlim()[1] * 1.2)
        rules(axes)
        axes.spines["left"].set_visible(False)
    panels[0][0].set_yticks(range(len(arms)), arms)
    panels[0][0].set_ylim(len(arms) - 0.5, -0.5)
    panels[0][len(clusters) // 2].set_xlabel("JCT, s")
    handles = [
        Patch(color=SOFT_INK, alpha=0.45, label="one GPU"),
        Patch(color=SOFT_INK, label="two GPUs"),
        Line2D([], [], color=INK, marker="o", markersize=3, linestyle="none", label="one run"),
        Line2D([], [], color=INK, marker="|", markersize=10, linestyle="none", label=SETTINGS[-1]),
    ]
    drawing.tight_layout(w_pad=1.2)
    drawing.legend(handles=handles, loc="upper center", ncols=4, bbox_to_anchor=(0.55, 0))
    return finish(
        drawing,
        "gpu-sharing-jct",
        "Job completion time on one GPU and on two",
        "The number is the change by the second GPU. The tick is where the simulator's change would bring the upper "
        f"bar, with a GPU for each engine. With three engines ({', '.join(each for each in SHAPES if each != APART)}) "
        "two of them still share one of the two GPUs: what is measured there is less than that, and bounds from below "
        "what sharing one GPU distorts.",
    )


def _simulated(sharing: Sharing, cell: Cell) -> float | None:
    return ratio(jct(sharing.apart, cell), jct(sharing.simulated, cell))


def _change(value: float | None) -> str:
    return NONE if value is None else f"{value - 1:+.1%}"


def _times(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}×"


if __name__ == "__main__":
    found = main(*(Path(argument).resolve() for argument in sys.argv[1:3]))
    sys.exit(0 if all(check.passed for check in found) else 1)
