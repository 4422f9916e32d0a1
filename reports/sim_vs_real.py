"""The simulator against the real engine, arm by arm: a page, its figures, Markdown and checks.json.

    python reports/sim_vs_real.py [--runs bench/out/sim_vs_real] [--cpu bench/out/cpu] [--out reports/out/sim_vs_real]
    python reports/sim_vs_real.py --published                     (of reports/published/h200 and bench/out/sim_vs_h200)

Reads what bench/sim_vs_real.py left in RUNS (real, sim) and the real runs of bench/cpu.py, or those of one H200, which
were measured elsewhere: the report says so. A run that is missing or void fails its checks with a note; it does not
stop the report. Exits with 1 where a check failed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import matplotlib.pyplot as plt
from dualpath.core.arms import ARMS
from dualpath.core.errors import DualpathError, RunError
from dualpath.report import style, tables
from dualpath.report.caveats import beside, caveats
from dualpath.report.cells import gather
from dualpath.report.figure import Figure, finish
from dualpath.report.near import near
from dualpath.report.sections import Section, Tile
from dualpath.report.style import INK, SOFT_INK, WASH, arm_colour, rules
from dualpath.report.table import Table, number, per_cent, shown, table
from dualpath.report.write import write_page
from dualpath.results.checks import RUN_MISSING, Check, at_most
from dualpath.results.metrics import METRICS, summary
from dualpath.results.run import Run
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

ROOT = Path(__file__).resolve().parents[1]
TITLE = "The simulator against the real engine"
PUBLISHED = ROOT / "reports" / "published" / "h200" / "runs"
CLUSTERS = ("cpu-1p1d", "cpu-1p2d", "cpu-2p1d")
H200_CLUSTERS = ("h200-1p1d", "h200-1p2d", "h200-2p1d")
LIMITS = {"jct": 0.05, "ttft_p50": 0.10}
JUDGED = [arm.name for arm in ARMS.values() if arm.moves_kv]  # bound by storage NICs on these presets
STATIONS = ("release", "schedule", "allocate", "read", "prefill", "ttst", "tpot")  # of a turn, in order
WIDTH_IN = 7.6
HOW = (
    "Each arm of each preset runs on the real engine, and in the simulator with a profile that `dualpath calibrate` "
    "measured on the same machine; no constant is fitted to the runs. Both numbers are medians: over repeats of the "
    "real run, and over simulations whose latency of messages differs by up to 20 %. The ranges beside them say "
    "what a difference can mean: where A against A differs by more than the bound, so may the simulator. Two kinds "
    "of runs make much of little. Where requests alternate between two queues (dualpath-rr), some "
    "turns wait for a short one and some for a long one, and the median turn stands between them. And the oracle "
    "reads nothing: its prefill and decode engines share the cores and are about equally busy, so a few per cent "
    "decide at which of them requests queue. It is shown, and not judged: no storage NIC binds it."
)

Tag = Literal["jct", "ttft_p50"]
Side = Literal["real", "sim"]
SIDES: tuple[Side, Side] = "real", "sim"


@dataclass(frozen=True)
class Pair:
    """One arm on one cluster, both ways. `problem`: why there is no result of one of them."""

    cluster: str
    arm: str
    real: list[Run]
    simulated: list[Run]
    problem: str

    @cached_property
    def numbers(self) -> dict[str, list[dict[str, float | None]]]:
        return {"real": [summary(run) for run in self.real], "sim": [summary(run) for run in self.simulated]}

    def values(self, side: Side, tag: str) -> list[float]:
        return [value for found in self.numbers[side] if (value := found[tag]) is not None]

    def middle(self, side: Side, tag: str) -> float | None:
        values = self.values(side, tag)
        return statistics.median(values) if values else None

    def spread(self, side: Side, tag: str) -> float | None:
        """A against A: largest / smallest - 1."""
        values = self.values(side, tag)
        return max(values) / min(values) - 1 if len(values) > 1 else None

    def difference(self, tag: str) -> float | None:
        """Simulated / real - 1."""
        real, simulated = self.middle("real", tag), self.middle("sim", tag)
        return simulated / real - 1 if real and simulated is not None else None


def load(clusters: Iterable[str], runs: Path, measured: Path) -> list[Pair]:
    pairs = []
    for cluster in clusters:
        for arm in ARMS:
            problems: list[str] = []
            real = _load([measured / cluster / arm, runs / "real" / cluster / arm], "real", problems)
            simulated = _load([runs / "sim" / cluster / arm], "simulated", problems)
            if unlike := _unlike([*real, *simulated]):
                problems.append(unlike)
                simulated = []
            pairs.append(Pair(cluster, arm, real, simulated, "; ".join(dict.fromkeys(problems))))
    return pairs


def _unlike(runs: list[Run]) -> str:
    """In what two of them are not the same work; empty where all are. bench/cpu.py and bench/gpu.py say what real runs
    do, and bench/sim_vs_real.py says it again of simulated ones."""
    for run in runs[1:]:
        if key := run.unlike(runs[0], "backend"):
            ours, theirs = run.workload[key], runs[0].workload[key]
            return f"{run.directory} is other work than {runs[0].directory}: {key} is {ours!r} and not {theirs!r}"
    return ""


def _load(cells: list[Path], what: str, problems: list[str]) -> list[Run]:
    found: list[Run] = []
    for path in sorted(path for cell in cells for path in cell.glob("r*")):
        try:
            run = Run.load(near(path))
        except RunError as error:
            problems.append(str(error))
            continue
        if run.void:
            problems.append(f"{run.directory} is void: {', '.join(run.reasons)}")
        else:
            found.append(run)
    if not found:
        problems.append(f"{what} {RUN_MISSING}")
    return found


def checks_of(pairs: Iterable[Pair]) -> Iterator[Check]:
    names: dict[Tag, tuple[str, str]] = {"jct": ("jct", "JCT"), "ttft_p50": ("ttft", "TTFT of the median turn")}
    for tag, (short, what) in names.items():
        for pair in (pair for pair in pairs if pair.arm in JUDGED):
            difference, scale, unit = pair.difference(tag), *((1e-9, "s") if tag == "jct" else (1e-6, "ms"))
            note = pair.problem
            if difference is not None:
                note = (
                    f"real {_values(pair.values('real', tag), scale)} {unit}, "
                    f"simulated {number(pair.middle('sim', tag), scale)} {unit} ({difference:+.1%}); A against A: real "
                    f"{per_cent(pair.spread('real', tag))}, simulated {per_cent(pair.spread('sim', tag))}"
                )
            yield at_most(
                f"simreal.{short}.{pair.cluster}.{pair.arm}",
                f"{what}, {pair.arm} on {pair.cluster}: simulated / real - 1, either way",
                None if difference is None else abs(difference),
                LIMITS[tag],
                note=note,
                rows=[str(run.directory) for run in (*pair.real, *pair.simulated)],
            )


def _values(values: list[float], scale: float) -> str:
    return ", ".join(number(value, scale) for value in sorted(values))


def jct_figure(pairs: list[Pair]) -> Figure | None:
    shown = [pair for pair in pairs if pair.difference("jct") is not None]
    if not shown:
        return None
    arms, clusters = list(ARMS), list(dict.fromkeys(pair.cluster for pair in pairs))
    drawing, panels = plt.subplots(1, len(clusters), figsize=(WIDTH_IN, 0.8 + 0.36 * len(arms)), sharey=True)
    for axes, cluster in zip(panels, clusters, strict=True):
        for pair in (pair for pair in shown if pair.cluster == cluster):
            row, colour = arms.index(pair.arm), arm_colour(pair.arm)
            real, simulated = ([value / 1e9 for value in pair.values(side, "jct")] for side in SIDES)
            axes.barh(row - 0.17, statistics.median(real), height=0.3, color=colour, linewidth=0)
            axes.barh(row + 0.17, statistics.median(simulated), height=0.3, color=colour, alpha=0.45, linewidth=0)
            for place, values in ((row - 0.17, real), (row + 0.17, simulated)):
                axes.plot(
                    [min(values), max(values)], [place, place], color=INK, linewidth=1.4, marker="|", markersize=5
                )
            longest = max(*real, *simulated)
            axes.annotate(
                f"{pair.difference('jct'):+.1%}",
                (longest, row),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                size=8,
                color=SOFT_INK,
            )
        axes.set_title(cluster)
        axes.set_xlim(0, axes.get_xlim()[1] * 1.22)
        rules(axes)
        axes.spines["left"].set_visible(False)
    panels[0].set_yticks(range(len(arms)), arms)
    panels[0].set_ylim(len(arms) - 0.5, -0.5)
    panels[len(clusters) // 2].set_xlabel("JCT, s")
    handles = [
        Patch(color=SOFT_INK, label="real engine"),
        Patch(color=SOFT_INK, alpha=0.45, label="simulated"),
        Line2D([], [], color=INK, marker="|", label="A against A"),
    ]
    drawing.tight_layout(w_pad=1.2)
    drawing.legend(handles=handles, loc="upper center", ncols=3, bbox_to_anchor=(0.55, 0))
    return finish(
        drawing,
        "sim-real-jct",
        "Job completion time, real and simulated",
        "Upper bar: median of the real runs; lower, paler bar: of the simulations. Black: from the smallest to the "
        "largest of them. The number is simulated over real, less 1.",
    )


def difference_figure(pairs: list[Pair]) -> Figure | None:
    shown = [pair for pair in pairs if pair.difference("jct") is not None]
    if not shown:
        return None
    drawing, panels = plt.subplots(1, 2, figsize=(WIDTH_IN, 0.7 + 0.21 * len(shown)), sharey=True)
    for axes, (tag, title) in zip(panels, (("jct", "JCT"), ("ttft_p50", "TTFT, median turn")), strict=True):
        limit = 100 * LIMITS[tag]
        off = [found for pair in shown if (found := pair.difference(tag)) is not None]
        assert len(off) == len(shown), "runs with a JCT have turns, and those a TTFT"
        axes.axvspan(-limit, limit, color=WASH, linewidth=0)
        axes.axvline(0, color=SOFT_INK, linewidth=0.8)
        for row, pair in enumerate(shown):
            real = pair.middle("real", tag)
            assert real, "pairs without a real run were left out"
            ends = [[100 * (value / real - 1) for value in pair.values(side, tag)] for side in SIDES]
            axes.plot([min(ends[0]), max(ends[0])], [row, row], color=SOFT_INK, linewidth=5, alpha=0.35)
            axes.plot([min(ends[1]), max(ends[1])], [row, row], color=arm_colour(pair.arm), linewidth=1.5)
            axes.plot(100 * off[row], row, "o", color=arm_colour(pair.arm), markersize=5)
        widest = max(1.6 * limit, *(abs(100 * each) for each in off))
        axes.set_xlim(-1.1 * widest, 1.1 * widest)
        axes.set_title(title)
        axes.set_xlabel("against the median real run, %")
        axes.spines["left"].set_visible(False)
        rules(axes)
    panels[0].set_yticks(range(len(shown)), [f"{pair.arm} · {pair.cluster}" for pair in shown])
    panels[0].set_ylim(len(shown) - 0.4, -0.6)
    drawing.tight_layout(w_pad=1.5)
    return finish(
        drawing,
        "sim-real-difference",
        "How far off",
        "Dot: median simulation; thin line: the range of simulations whose message latency differs by up to 20 %. "
        "Grey: from the smallest to the largest real run, where there are repeats. The band is the bound. Where "
        "requests alternate between two queues, the median TTFT lies between those of a short and of a long queue, "
        "and moves far with little.",
    )


def numbers_table(pairs: list[Pair]) -> Table:
    rows = []
    for pair in pairs:
        row = [pair.cluster, pair.arm, len(pair.real)]
        for tag, scale in (("jct", 1e-9), ("ttft_p50", 1e-6), ("ttft", 1e-6)):
            row += [
                number(pair.middle("real", tag), scale),
                number(pair.middle("sim", tag), scale),
                shown(pair.difference(tag), "+.1%"),
                per_cent(pair.spread("real", tag)),
                per_cent(pair.spread("sim", tag)),
            ]
        rows.append(row)
    columns = ["cluster|", "arm|", "real runs"]
    for name in ("JCT, s", "TTFT p50, ms", "TTFT mean, ms"):
        columns += [f"{name}: real", "simulated", "difference", "A against A, real", "simulated"]
    return table("Real and simulated", columns, rows)


def stations_table(pairs: list[Pair]) -> Table:
    rows = [
        [
            pair.cluster,
            pair.arm,
            *(number(pair.middle(side, tag), 1e-6) for tag in STATIONS for side in SIDES),
        ]
        for pair in pairs
    ]
    columns = ["cluster|", "arm|", *(name for tag in STATIONS for name in (f"{tag}: real", "simulated"))]
    formulas = "; ".join(f"{tag} = {METRICS[tag].formula}" for tag in STATIONS)
    return table(
        "Where a turn's time goes, station by station", columns, rows, f"Means, ms. {formulas}", is_folded=True
    )


def unshared_table(pairs: list[Pair], unshared: Path) -> Table:
    """What it distorts that all engines share one GPU: the same runs, simulated as if each had its own."""
    rows = []
    for pair in pairs:
        alone = _load([unshared / pair.cluster / pair.arm], "unshared", [])
        real, shared = pair.middle("real", "jct"), pair.middle("sim", "jct")
        if real and shared and alone:
            own = summary(alone[0])["jct"] or 0.0
            times = [number(value, 1e-9) for value in (real, shared, own)]
            rows.append([pair.cluster, pair.arm, *times, shown(own / shared - 1, "+.1%")])
    columns = ("cluster|", "arm|", "JCT, s: real", "simulated", "with a GPU for each engine", "of that")
    note = (
        "All engines of the real runs share one GPU. Simulated without that, with what passes and steps take when "
        "nothing else runs: how much shorter the same runs would be says what sharing distorts. It matters little "
        "where one storage NIC is waited for, and most where three of them outrun the GPU. reports/gpu_sharing.py has "
        "what two GPUs measured."
    )
    return table("What sharing one GPU distorts", columns, rows, note)


def profile_table(pairs: list[Pair]) -> Table:
    """Of the simulations as the profile says: their first repeats."""
    constants: dict[str, Any] = next((pair.simulated[0].raw.get("profile", {}) for pair in pairs if pair.simulated), {})
    rows = [(name, shown(found["value"], ".6g"), found["source"]) for name, found in constants.items()]
    return table("The profile", ("constant|", "value", "source|"), rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", action="store_true", help="what one H200 measured")
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--cpu", type=Path, default=ROOT / "bench" / "out" / "cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    is_published, name = arguments.published, "sim_vs_h200" if arguments.published else "sim_vs_real"
    runs, out = arguments.runs or ROOT / "bench" / "out" / name, arguments.out or ROOT / "reports" / "out" / name
    style.apply()
    pairs = load(H200_CLUSTERS if is_published else CLUSTERS, runs, PUBLISHED if is_published else arguments.cpu)
    checks = list(checks_of(pairs))
    everything = gather(run for pair in pairs for run in (*pair.real, *pair.simulated[:1]))
    words = beside(everything)
    failed = [check for check in checks if not check.passed]
    worst = {tag: max((abs(pair.difference(tag) or 0.0) for pair in pairs), default=0.0) for tag in LIMITS}
    figures = [figure for figure in (jct_figure(pairs), difference_figure(pairs)) if figure is not None]
    unshared = unshared_table(pairs, runs / "unshared")
    sections = [
        Section("failed", "Checks that failed", "", (), (tables.checks_table("Checks that failed", failed),)),
        Section("checks", "Checks", "", (), (tables.checks_table("Checks", checks),), is_folded=True),
        Section(
            "compare",
            "Real and simulated",
            HOW,
            tuple(figures),
            (numbers_table(pairs), stations_table(pairs)),
            caveats=words,
        ),
        Section("unshared", "One GPU for all engines", "", (), (unshared,), caveats=words),
        Section("profile", "The profile", "What the simulator was told.", (), (profile_table(pairs),)),
        Section("provenance", "Provenance", "", (), (tables.provenance(everything),), is_folded=True),
    ]
    page = write_page(
        out,
        title=f"{TITLE}, one H200 (published, measured elsewhere)" if is_published else TITLE,
        tiles=[
            Tile("JCT off by at most", per_cent(worst["jct"]), f"bound {LIMITS['jct']:.0%}", words),
            Tile("median TTFT off by at most", per_cent(worst["ttft_p50"]), f"bound {LIMITS['ttft_p50']:.0%}", words),
            Tile("checks passed", f"{len(checks) - len(failed)} / {len(checks)}", "each with its bound, below"),
        ],
        caveats=caveats(everything),
        sections=[section for section in sections if section.figures or any(found.rows for found in section.tables)],
        counts=(len(everything.runs), 0),
        checks=checks,
    )
    for check in failed:
        print(f"FAIL {check.id}: {per_cent(check.value)} (bound {check.bound}) {check.note}")
    print(f"{len(checks) - len(failed)} of {len(checks)} checks passed; report: {near(page)}")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DualpathError as error:
        sys.exit(f"error: {error}")
