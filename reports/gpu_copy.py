"""The report on copies of Layer Blocks between host and GPU: what each way of copying reaches, and what it costs.

    python reports/gpu_copy.py [ROWS [OUT]]     default: reports/published/h200/copy.jsonl reports/out/gpu_copy

Reads the rows of bench/gpu_copy.py. Without ROWS they are the published ones, measured on another machine than this,
and the page says so. Exits with 1 where a check failed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import polars as pl
from dualpath.report import style
from dualpath.report.figure import Figure, finish
from dualpath.report.near import near
from dualpath.report.sections import Section, Tile
from dualpath.report.style import rules
from dualpath.report.table import NONE, Shown, Table, number, per_cent, table
from dualpath.report.tables import checks_table
from dualpath.report.write import write_page
from dualpath.results.checks import RUN_MISSING, Check, at_least

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "reports" / "published" / "h200" / "copy.jsonl"
TITLE = "Layer Blocks between host memory and a GPU"
LEAST_SHARE = 0.85  # of a large copy's rate
JUDGED_BYTES = 51_200
OURS = "launch"
WAYS = {
    "calls": ("a copy call per block", "#94a1b2"),
    "graph": ("a captured graph of copies", "#d9ac1f"),
    "batch": ("cudaMemcpyBatchAsync", "#e8833a"),
    OURS: ("one kernel over pinned memory", "#3f7fe0"),
}
DIRECTIONS = {"h2d": "host to GPU", "d2h": "GPU to host"}
Row = dict[str, Any]


def main(rows_file: Path | None = None, out_dir: Path | None = None) -> list[Check]:
    """Read the rows, compute the checks, write the report, print a summary. Returns the checks."""
    path = rows_file or PUBLISHED
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    found = summary(rows)
    setting = next((row for row in rows if row["what"] == "setting"), {})
    checks = [check(found, direction, path) for direction in DIRECTIONS]
    style.apply()
    page = write_page(
        out_dir or ROOT / "reports" / "out" / "gpu_copy",
        title=TITLE,
        tiles=[
            Tile(f"{DIRECTIONS[each.id[-3:]]}, 50 KB blocks", per_cent(each.value), "of a large copy")
            for each in checks
        ],
        caveats=list(caveats(setting, is_published=rows_file is None)),
        sections=sections(found, checks),
        counts=(int(bool(rows)), 0),
        checks=checks,
        computed_from=f"the raw rows in {near(path)}",
    )
    for each in checks:
        print(f"{'pass' if each.passed else 'FAIL'} {each.id}: {per_cent(each.value)} (bound {each.bound}) {each.note}")
    print(f"{sum(each.passed for each in checks)} of {len(checks)} checks passed; report: {near(page)}")
    return checks


def summary(rows: list[Row]) -> pl.DataFrame:
    """Per direction, block size and way, medians: gb_per_s, submit_us (per block), share (of a large copy)."""
    copies = [row for row in rows if row["what"] == "copy"]
    names = ("way", "direction", "block_bytes", "blocks", "bytes", "submit_ns", "moved_ns")
    frame = pl.DataFrame([{name: row[name] for name in names} for row in copies], schema=names if not copies else None)
    if not copies:
        return frame
    keys = ["direction", "block_bytes"]
    found = frame.group_by(*keys, "way", maintain_order=True).agg(
        (pl.col("bytes") / pl.col("moved_ns")).median().alias("gb_per_s"),
        (pl.col("bytes") / pl.col("moved_ns")).min().alias("least"),
        (pl.col("bytes") / pl.col("moved_ns")).max().alias("most"),
        (pl.col("submit_ns") / pl.col("blocks") / 1e3).median().alias("submit_us"),
    )
    large = found.filter(way="large").select(*keys, large="gb_per_s")
    return found.join(large, on=keys).with_columns(share=pl.col("gb_per_s") / pl.col("large"))


def check(found: pl.DataFrame, direction: str, path: Path) -> Check:
    of = found.filter(direction=direction, way=OURS, block_bytes=JUDGED_BYTES) if len(found) else found
    value = float(of["share"][0]) if len(of) else None
    note = f"{of['gb_per_s'][0]:.1f} GB/s, {of['submit_us'][0]:.2f} µs to submit a block" if len(of) else RUN_MISSING
    what = f"{DIRECTIONS[direction]}: scattered blocks of {JUDGED_BYTES:,} bytes in one launch, over one large copy"
    return at_least(f"gpu.copy.{direction}", what, value, LEAST_SHARE, note=note, rows=(str(near(path)),))


def caveats(setting: Row, *, is_published: bool) -> Iterator[str]:
    if not setting:
        yield "Nothing was measured: run bench/gpu_copy.py on a machine with a GPU."
        return
    where = f"{setting['gpu']}, torch {setting['torch']}, CUDA {setting['cuda']}"
    if is_published:
        yield f"PUBLISHED, MEASURED ELSEWHERE: on one {where}. Nothing on this page was measured on this machine."
    else:
        yield f"Measured on one {where}."
    yield (
        "Nothing else ran on the GPU. The kernel takes 16 blocks of threads; what that takes from a model that "
        "computes meanwhile is not measured here. Copy engines take nothing from it."
    )


def sections(found: pl.DataFrame, checks: list[Check]) -> list[Section]:
    if not len(found):
        return [Section("checks", "Checks", "", (), (checks_table("Checks", checks),))]
    text = (
        "A Layer Block is tens of kilobytes, and a layer's blocks lie scattered. The paper takes them through the "
        "compute NIC because a copy call for each costs the processor more than the bytes take (its section 4; 5 to "
        "7 µs of a call against 1 µs of an RDMA write). Copied by one kernel that reads or writes pinned host memory "
        "itself, they cost the processor one call for all of them."
    )
    return [
        Section("rates", "Rates", text, (figure(found),), tuple(ways_table(found, each) for each in DIRECTIONS)),
        Section("checks", "Checks", "", (), (checks_table("Checks", checks),), is_folded=True),
    ]


def figure(found: pl.DataFrame) -> Figure:
    drawing, panels = plt.subplots(1, 2, figsize=(7.6, 2.8), sharey=True)
    for axes, (direction, name) in zip(panels, DIRECTIONS.items(), strict=True):
        for way, (label, colour) in WAYS.items():
            of = found.filter(direction=direction, way=way).sort("block_bytes")
            if len(of):
                axes.plot(of["block_bytes"], of["share"], "o-", color=colour, label=label, markersize=4, linewidth=1.6)
        axes.set_xscale("log", base=2)
        sizes = sorted(set(found["block_bytes"]))
        axes.set_xticks(sizes, ["" if size == 65_536 else f"{size / 1024:.0f}K" for size in sizes])
        axes.minorticks_off()
        axes.set_ylim(0, 1.05)
        axes.set_title(name)
        axes.set_xlabel("bytes of a block")
        rules(axes, "both")
    panels[0].set_ylabel("of a large copy's rate")
    handles, labels = panels[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="lower center", ncol=2, bbox_to_anchor=(0.5, -0.17))
    drawing.tight_layout()
    ours = found.filter(way=OURS)["share"]
    calls = found.filter(way="calls", block_bytes=JUDGED_BYTES)["share"]
    caption = (
        f"Higher is better. A call per block, in Python's torch, reaches {calls.min():.0%} to {calls.max():.0%} of a "
        f"large copy at 50 KB a block; one kernel reaches {ours.min():.0%} to {ours.max():.0%} over all sizes. From "
        "64 KiB on this engine takes the driver's batch: it is nearly as fast there, and takes nothing from a model."
    )
    return finish(drawing, "gpu-copy", "What a way of copying reaches, by block size", caption)


def ways_table(found: pl.DataFrame, direction: str) -> Table:
    made = []
    of = found.filter(direction=direction)
    for size in sorted(set(of["block_bytes"])):
        cells = []
        for way in WAYS:
            row = of.filter(way=way, block_bytes=size)
            cells += (
                [_with_share(row["gb_per_s"][0], row["share"][0]), number(row["submit_us"][0])]
                if len(row)
                else [NONE, NONE]
            )
        made.append((size, number(of.filter(way="large", block_bytes=size)["gb_per_s"][0]), *cells))
    columns = ["block bytes", "large copy GB/s"]
    for _, (label, _) in WAYS.items():
        columns += [f"{label}, GB/s", f"{label}, µs per block"]
    note = "Medians of five rounds; in brackets the share of a large copy; µs per block: the processor's, to submit it."
    return table(DIRECTIONS[direction].capitalize(), columns, made, note)


def _with_share(gb_per_s: float, share: float) -> str:
    return Shown.of(f"{number(gb_per_s)} ({share:.0%})", value=gb_per_s, fraction=share)


if __name__ == "__main__":
    found = main(*(Path(argument).resolve() for argument in sys.argv[1:3]))
    sys.exit(0 if all(each.passed for each in found) else 1)
