"""Figures over time: utilisation of every NIC, agents still running, balance of the storage NICs."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from dualpath.report.cells import Cell, Evidence
from dualpath.report.figure import Figure, finish
from dualpath.report.near import slug
from dualpath.report.style import SOFT_INK, WASH, arm_colour, rules
from dualpath.results.links import balance, utilisation, window_utilisation
from dualpath.results.metrics import NS_PER_S, per_trajectory
from dualpath.results.run import Run
from dualpath.results.steady import steady_window

WIDTH_IN = 7.6
MAX_POINTS = 180  # per curve: more than that is thinner than a line
CUT_PERCENT = 112.0
NO_LOAD = "Windows without a load have no point."
MAX_PANELS = 6  # NICs beside each other; more are shown as a heat map

_MB = 1e6
_READING = {
    "snic": "Above the line: hits read from storage; below it: new blocks written there.",
    "cnic": "Above the line: what the NIC reads from DRAM and devices over PCIe; below it: what it writes to them.",
}


def nic_utilisation(evidence: Evidence, group: str, resource: str) -> Figure | None:
    """Every NIC of one cluster over time, one row of panels per arm."""
    cells = [cell for cell in evidence.of_group(group) if _has_bytes(cell.middle, resource)]
    if not cells:
        return None
    end_s = max(cell.jct_s for cell in cells)
    frames = [utilisation(cell.middle, resource, width_ns=_width_ns(cell.middle, end_s)) for cell in cells]
    names = list(dict.fromkeys(name for frame in frames for name in frame["nic"].to_list()))
    is_heat_map = len(names) > MAX_PANELS
    drawing, panels = plt.subplots(
        len(cells),
        1 if is_heat_map else len(names),
        figsize=(WIDTH_IN, 0.5 + 0.92 * len(cells)),
        sharex=True,
        sharey=not is_heat_map,
        squeeze=False,
    )
    for row, (cell, frame) in enumerate(zip(cells, frames, strict=True)):
        if is_heat_map:
            _heat_map(panels[row][0], cell, frame, end_s)
            continue
        for axes, name in zip(panels[row], names, strict=True):
            _panel(axes, cell, frame.filter(nic=name), resource, name)
            if row == 0:
                axes.set_title(name)
        panels[row][0].set_ylabel(cell.arm, weight="bold", color=arm_colour(cell.arm))
    if not is_heat_map:
        _limits(panels[0][0], frames)
    panels[0][0].set_xlim(0, end_s * 1.01)
    is_native = _rate(cells[0].middle, resource) is None
    panels[-1][panels.shape[1] // 2].set_xlabel("time, s")
    drawing.tight_layout(h_pad=0.6, w_pad=0.8)
    kind = "Storage" if resource == "snic" else "Compute"
    measure = "MB/s (the links are native: no rate, hence no utilisation)" if is_native else "% of the NIC's rate"
    return finish(
        drawing,
        f"utilisation-{resource}-{slug(group)}",
        f"{kind} NICs over time · {group}",
        f"Each row is an arm, each column one {kind.lower()} NIC (P, D: of prefill or decode nodes), in {measure}; "
        f"all rows share the time axis, so shorter is faster. {_READING[resource]} Shaded: the steady window; the "
        "numbers are means over it. The repeat with the middle JCT is shown.",
    )


def _panel(axes: Axes, cell: Cell, series: pl.DataFrame, resource: str, name: str) -> None:
    run, colour = cell.middle, arm_colour(cell.arm)
    window = steady_window(run)
    if window is not None:
        axes.axvspan(window.start_ns / NS_PER_S, window.end_ns / NS_PER_S, color=WASH, linewidth=0)
    for direction, sign, alpha in (("read", 1, 0.75), ("write", -1, 0.4)):
        frame = series.filter(direction=direction)
        start_s, width_s = frame["start_ns"].to_numpy() / NS_PER_S, frame["width_ns"][0] / NS_PER_S
        height = sign * _heights(frame)
        axes.stairs(height, [*start_s, start_s[-1] + width_s], fill=True, color=colour, alpha=alpha, linewidth=0)
    axes.axhline(0, color=SOFT_INK, linewidth=0.6)
    inside = None if window is None else window_utilisation(run, resource, window)
    if inside is not None:
        read, write = (inside.filter(nic=name, direction=way)["utilisation"][0] for way in ("read", "write"))
        if read is not None:
            text, place = f"read {read:.0%} · write {write:.0%}", (0.99, 0.03)
            axes.annotate(text, place, xycoords="axes fraction", ha="right", va="bottom", size=7.5)
    rules(axes, "y")


def _limits(axes: Axes, frames: list[pl.DataFrame]) -> None:
    highest = {"read": 0.0, "write": 0.0}
    for frame in frames:
        for direction in highest:
            highest[direction] = max(highest[direction], float(_heights(frame.filter(direction=direction)).max()))
    is_percent = frames[0]["utilisation"].null_count() == 0
    top = CUT_PERCENT if is_percent else max(highest["read"] * 1.15, 1.0)
    lowest = min(highest["write"] * 1.1, top)
    axes.set_ylim(-max(lowest, top * 0.45), top)  # room for the words below the line
    if is_percent:
        ticks = [-100, -50, 0, 50, 100] if highest["write"] > 40 else [0, 50, 100]
        axes.set_yticks(ticks, [str(abs(tick)) for tick in ticks])


def _heat_map(axes: Axes, cell: Cell, frame: pl.DataFrame, end_s: float) -> None:
    reads = frame.filter(direction="read")
    names = list(dict.fromkeys(reads["nic"].to_list()))
    heights = _heights(reads).reshape(len(names), -1)
    last_s = heights.shape[1] * frame["width_ns"][0] / NS_PER_S
    image = axes.imshow(
        heights,
        aspect="auto",
        interpolation="nearest",
        cmap="viridis",
        vmin=0,
        extent=(0, last_s, len(names) - 0.5, -0.5),
    )
    axes.set_xlim(0, end_s)
    step = -(-len(names) // 4)  # more labels than that touch each other
    axes.set_yticks(range(0, len(names), step), names[::step])
    axes.set_title(cell.arm, color=arm_colour(cell.arm))
    axes.figure.colorbar(image, ax=axes, pad=0.01)


def completion(evidence: Evidence) -> Figure | None:
    """Trajectories not yet finished, over time."""
    if not evidence.cells:
        return None
    drawing, panels = _row_of_panels(evidence, 2.3)
    for axes, group in zip(panels, evidence.groups, strict=True):
        for cell in evidence.of_group(group):
            for run in cell.runs:
                ends_s = np.sort(per_trajectory(run).collect()["end_ns"].to_numpy()) / NS_PER_S
                counts = np.arange(len(ends_s), -1, -1)
                is_middle = run is cell.middle
                axes.step(
                    [0, *ends_s],
                    counts,
                    where="post",
                    color=arm_colour(cell.arm),
                    linewidth=1.8 if is_middle else 0.8,
                    alpha=1 if is_middle else 0.35,
                    label=cell.arm if is_middle else None,
                )
        axes.set_title(group)
        axes.set_xlim(left=0)
        axes.set_xlabel("time, s")
        rules(axes, "both")
    panels[0].set_ylabel("unfinished trajectories")
    panels[0].set_ylim(bottom=0)  # of all panels, and so after all are drawn
    drawing.tight_layout(w_pad=1.2)
    _arm_legend(drawing, panels)
    return finish(
        drawing,
        "completion",
        "Agents still running",
        "Trajectories that have not finished, over time; the curve meets zero at the JCT. Thick: the repeat with the "
        "middle JCT, thin: the others. A long flat tail is a few long trajectories running alone: there no link is "
        "busy, and no arm can help.",
    )


def balance_over_time(evidence: Evidence) -> Figure | None:
    """Largest over mean of the storage NICs' loads, per window."""
    series: list[tuple[Cell, pl.DataFrame]] = []
    for cell in evidence.cells:
        frame = balance(cell.middle, window_ns=balance_window_ns(cell.middle))
        if cell.middle.num_nodes > 1 and not frame.is_empty():
            series.append((cell, frame))
    if not series:
        return None
    drawing, panels = _row_of_panels(evidence, 2.1)
    for axes, group in zip(panels, evidence.groups, strict=True):
        for cell, frame in series:
            if cell.group == group:
                frame = with_gaps(frame, balance_window_ns(cell.middle))
                start_s = frame["start_ns"].to_numpy() / NS_PER_S
                axes.plot(
                    start_s,
                    frame["balance"].to_numpy(),
                    marker=".",
                    markersize=3,
                    color=arm_colour(cell.arm),
                    linewidth=1.5,
                    label=cell.arm,
                )
        axes.axhline(1, color=SOFT_INK, linewidth=0.8)
        axes.set_title(group)
        axes.set_xlim(left=0)
        axes.set_xlabel("time, s")
        rules(axes, "both")
    panels[0].set_ylabel("busiest NIC / mean")
    panels[0].set_ylim(bottom=0.95)
    drawing.tight_layout(w_pad=1.2)
    _arm_legend(drawing, panels)
    return finish(
        drawing,
        "balance",
        "Balance of the storage NICs",
        "Hit bytes loaded by the busiest storage NIC over the mean of all storage NICs of the cluster, per window "
        "(the run's 40th part, at least 1 s; middle repeat). 1 is perfect; the number of NICs is the worst, and what "
        "an arm that reads with one NIC only must show. Late in a run, when few agents are left, the ratio says "
        "little (the paper's Fig 13 and its remark).",
        gaps=NO_LOAD,
    )


def with_gaps(frame: pl.DataFrame, window_ns: int) -> pl.DataFrame:
    """A row for every window up to the last, null where nothing was loaded: a line must not bridge a gap."""
    last = frame["start_ns"][-1]
    starts = pl.DataFrame({"start_ns": range(0, last + 1, window_ns)}, schema={"start_ns": pl.Int64})
    return starts.join(frame, on="start_ns", how="left").sort("start_ns")


def balance_window_ns(run: Run) -> int:
    """The 40th part of the run, at least 1 s, in whole buckets."""
    last = run.links.select(pl.col("bucket_ns").max()).collect().item() or 0
    bucket_ns = run.manifest.bucket_ns
    return max(1, max(int(NS_PER_S), last // 40) // bucket_ns) * bucket_ns


def _row_of_panels(evidence: Evidence, height_in: float) -> tuple[Drawing, list[Axes]]:
    count = len(evidence.groups)
    drawing, panels = plt.subplots(1, count, figsize=(WIDTH_IN, height_in), sharey=True, squeeze=False)
    return drawing, list(panels[0])


def _arm_legend(drawing: Drawing, panels: list[Axes]) -> None:
    handles: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    drawing.legend(list(handles.values()), list(handles), loc="upper center", ncols=6, bbox_to_anchor=(0.5, 0))


def _heights(frame: pl.DataFrame) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Per cent of the rate, or MB/s where there is none."""
    if frame["utilisation"].null_count():
        return np.asarray(frame["bytes"].to_numpy() / (frame["width_ns"].to_numpy() / NS_PER_S) / _MB)
    return np.asarray(frame["utilisation"].to_numpy() * 100)


def _has_bytes(run: Run, resource: str) -> bool:
    total = run.links.filter(pl.col("resource") == resource).select(pl.col("bytes").sum()).collect().item()
    return bool(total)


def _rate(run: Run, resource: str) -> float | None:
    return run.cluster.snic_bytes_per_s if resource == "snic" else run.cluster.cnic_bytes_per_s


def _width_ns(run: Run, end_s: float) -> int:
    return max(run.manifest.bucket_ns, int(end_s * NS_PER_S / MAX_POINTS))
