"""The report on a model on a GPU: what prefill, decode and loading layer by layer reach of what the GPU can do.

    python reports/gpu_model.py [ROWS [OUT]]     default: reports/published/h200/model.jsonl reports/out/gpu_model

Reads the rows of bench/gpu_model.py. Without ROWS they are the published ones, measured on another machine than this,
and the report says so. Exits with 1 where a check failed.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from dualpath.report import style
from dualpath.report.figure import Figure, finish
from dualpath.report.near import near
from dualpath.report.sections import Section, Tile
from dualpath.report.style import rules
from dualpath.report.table import NONE, Table, number, per_cent, shown, table
from dualpath.report.tables import checks_table
from dualpath.report.write import write_page
from dualpath.results.checks import RUN_MISSING, Check, at_least, at_most

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "reports" / "published" / "h200" / "model.jsonl"
PREFILL, LEAST_PREFILL = (4096, 0), 0.5  # (new, cached) tokens; of the rate of a large matrix product
DECODE, LEAST_DECODE = (64, 8192), 0.6  # (requests, context); of the rate of a large copy within device memory
MOST_OVERLAP = 1.10  # a pass that loads and sends, over the longer of computing and moving
OURS, THEIRS = "#3f7fe0", "#94a1b2"
Row = dict[str, Any]


def main(rows_file: Path = PUBLISHED, out_dir: Path | None = None) -> list[Check]:
    """Read the rows, compute the checks, write the report, print a summary. Returns the checks."""
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()] if rows_file.exists() else []
    checks = [prefill_check(rows), decode_check(rows), *overlap_checks(rows)]
    if rows:
        checks = [replace(each, rows=(str(near(rows_file)),)) for each in checks]
    style.apply()
    page = write_page(
        out_dir or ROOT / "reports" / "out" / "gpu_model",
        title="A model on a GPU",
        tiles=list(tiles(rows, checks)),
        caveats=list(caveats(rows, is_published=rows_file == PUBLISHED)),
        sections=list(sections(rows, checks)),
        counts=(int(bool(rows)), 0),
        checks=checks,
        computed_from=f"the raw rows in {near(rows_file)}",
    )
    for each in checks:
        print(f"{'pass' if each.passed else 'FAIL'} {each.id}: {number(each.value)} (bound {each.bound}) {each.note}")
    print(f"{sum(each.passed for each in checks)} of {len(checks)} checks passed; report: {near(page)}")
    return checks


def of(rows: list[Row], what: str, **values: object) -> Row | None:
    """The row of a kind that has these values."""
    for row in rows:
        if row["what"] == what and all(row[name] == value for name, value in values.items()):
            return row
    return None


def ms(row: Row) -> float:
    """Median of a row's times."""
    return statistics.median(row["ns"]) / 1e6


def rate(row: Row | None, of_what: str) -> float:
    """What a row moved or computed each ns."""
    return 0.0 if row is None else row[of_what] / statistics.median(row["ns"])


def prefill_check(rows: list[Row]) -> Check:
    new, cached = PREFILL
    row, matmul = of(rows, "prefill", new=new, cached=cached), rate(of(rows, "matmul"), "flop")
    value = rate(row, "flop") / matmul if row and matmul else None
    note = f"{rate(row, 'flop') / 1e3:.0f} of {matmul / 1e3:.0f} TFLOP/s, {ms(row):.1f} ms" if row else RUN_MISSING
    what = f"prefill of {new:,} new tokens, over a large matrix product"
    return at_least("gpu.prefill", what, value, LEAST_PREFILL, note=note)


def decode_check(rows: list[Row]) -> Check:
    requests, context = DECODE
    row, copy = of(rows, "decode", requests=requests, context=context), rate(of(rows, "copy"), "bytes")
    value = rate(row, "bytes") / copy if row and copy else None
    note = f"{rate(row, 'bytes'):,.0f} of {copy:,.0f} GB/s, {ms(row):.2f} ms a step" if row else RUN_MISSING
    what = f"a decode step of {requests} requests with {context:,} tokens each: weights and KV read once, over a copy"
    return at_least("gpu.decode", what, value, LEAST_DECODE, note=note)


def overlap_checks(rows: list[Row]) -> Iterator[Check]:
    found = [row for row in rows if row["what"] == "layerwise"]
    for row in found:
        shape = {"new": row["new"], "cached": row["cached"]}
        alone = [each for name in ("prefill", "moves") if (each := of(rows, name, **shape))]
        value = ms(row) / max(map(ms, alone)) if len(alone) == 2 else None
        note = f"{ms(row):.1f} ms; computing {ms(alone[0]):.1f}, moving {ms(alone[1]):.1f}" if value else RUN_MISSING
        what = f"{row['new']:,} new tokens behind {row['cached']:,} cached: layer by layer, over the longer part alone"
        yield at_most(f"gpu.layerwise.{row['new']}-{row['cached']}", what, value, MOST_OVERLAP, note=note)
    if not found:
        yield at_most("gpu.layerwise", "layer by layer, over the longer part", None, MOST_OVERLAP, note=RUN_MISSING)


def tokens_per_s(rows: list[Row]) -> tuple[float | None, float | None]:
    """Generated tokens per second of the requests that `transformers` served too: (ours, theirs)."""
    theirs, prompts, steps = (of(rows, what) for what in ("transformers", "ours, prompts", "ours, steps"))
    if not theirs or not prompts or not steps:
        return None, None
    return theirs["tokens"] / (ms(prompts) + ms(steps)) * 1e3, theirs["tokens"] / ms(theirs) * 1e3


def tiles(rows: list[Row], checks: list[Check]) -> Iterator[Tile]:
    yield Tile("prefill", per_cent(checks[0].value), "of a large matrix product")
    yield Tile("decode", per_cent(checks[1].value), "of device memory's bandwidth")
    ours, theirs = tokens_per_s(rows)
    if ours and theirs:
        yield Tile("tokens per second", number(ours), f"transformers: {number(theirs)}")


def caveats(rows: list[Row], *, is_published: bool) -> Iterator[str]:
    setting = of(rows, "setting")
    if not setting:
        yield "Nothing was measured: run bench/gpu_model.py on a machine with a GPU."
        return
    if is_published:
        yield "Published, measured elsewhere: nothing here was measured on the machine that wrote this page."
    yield (
        f"Measured on one {setting['gpu']}, torch {setting['torch']}, CUDA {setting['cuda']}: {setting['model']} with "
        "random weights. Nothing else ran on the GPU."
    )
    yield (
        "transformers is asked for what it does without tuning: its continuous batching as it comes, its first call "
        "not counted. It schedules requests as they come; ours are given as whole batches, all prompts first."
    )


def sections(rows: list[Row], checks: list[Check]) -> Iterator[Section]:
    words = ("random weights",)
    if rows:
        text = (
            "A prefill engine holds a few layers of KV at a time: one is loaded while another is computed and a third "
            "is sent on. So a pass should take what the longer of computing and moving takes alone."
        )
        yield Section("passes", "Forward passes", text, (passes_figure(rows),), (passes_table(rows),), caveats=words)
        text = "A step reads all weights and the KV of every request once. What it reads, by the time it takes:"
        yield Section("steps", "Decode steps", text, (steps_figure(rows),), (steps_table(rows),), caveats=words)
    yield Section("checks", "Checks", "", (), (checks_table("Checks", checks),), is_folded=bool(rows))


def passes(rows: list[Row]) -> list[tuple[str, list[Row | None]]]:
    """Per shape its rows: computing, moving, both."""
    shapes = [{"new": row["new"], "cached": row["cached"]} for row in rows if row["what"] == "prefill"]
    return [
        (
            f"{shape['new']:,} + {shape['cached']:,}",
            [of(rows, what, **shape) for what in ("prefill", "moves", "layerwise")],
        )
        for shape in shapes
    ]


def moved_bytes(row: Row) -> float:
    """Loaded: what is cached; sent: all."""
    share: float = (row["new"] + 2 * row["cached"]) / (row["new"] + row["cached"])
    return share * float(row["kv_bytes"])


def passes_figure(rows: list[Row]) -> Figure:
    drawing, axes = plt.subplots(figsize=(7.6, 2.8))
    found = passes(rows)
    for number_, (label, colour) in enumerate((("computing", "#94a1b2"), ("moving", "#e8833a"), ("both", OURS))):
        heights = [ms(row) if row else math.nan for _, three in found for row in [three[number_]]]
        axes.bar([at + 0.27 * (number_ - 1) for at in range(len(found))], heights, 0.25, color=colour, label=label)
    axes.set_xticks(range(len(found)), [name for name, _ in found])
    axes.set_xlabel("new + cached tokens")
    axes.set_ylabel("ms")
    axes.legend(ncol=3, loc="upper right")
    rules(axes, "y")
    caption = "A pass alone, its KV's moves alone, and the pass that loads and sends layer by layer."
    return finish(
        drawing,
        "gpu-passes",
        "Loading and sending behind computing",
        caption,
        gaps="A bar that is missing was not measured.",
    )


def passes_table(rows: list[Row]) -> Table:
    made = []
    for name, (computing, moving, both) in passes(rows):
        times = [number(ms(row)) if row else NONE for row in (computing, moving, both)]
        gb = number(moved_bytes(moving) / 1e6 / ms(moving)) if moving else NONE
        made.append((name, *times, shown(rate(computing, "flop") / 1e3, ".0f"), gb))
    columns = (
        "new + cached tokens|",
        "computing ms",
        "moving ms",
        "both ms",
        "TFLOP/s alone",
        "GB/s alone, in and out",
    )
    note = "Medians. In and out: bytes loaded and bytes sent; a pass sends all it has, and loads what is cached."
    return table("Forward passes", columns, made, note)


def steps_figure(rows: list[Row]) -> Figure:
    drawing, axes = plt.subplots(figsize=(7.6, 2.4))
    found, copy = [row for row in rows if row["what"] == "decode"], rate(of(rows, "copy"), "bytes")
    names = [f"{row['requests']} × {row['context']:,}" for row in found]
    axes.bar(range(len(found)), [rate(row, "bytes") / copy for row in found], 0.6, color=OURS)
    axes.axhline(LEAST_DECODE, color=THEIRS, linewidth=1, linestyle="--")
    axes.set_xticks(range(len(found)), names)
    axes.set_ylim(0, 1)
    axes.set_xlabel("requests × tokens of context")
    axes.set_ylabel("of a copy's rate")
    rules(axes, "y")
    caption = "Dashed: what was to be reached with 64 requests of 8,192 tokens. Small batches read little but weights."
    return finish(drawing, "gpu-steps", "What decode reads, of what device memory gives", caption)


def steps_table(rows: list[Row]) -> Table:
    made = [
        (f"{row['requests']} × {row['context']:,}", number(ms(row)), number(rate(row, "bytes")))
        for row in rows
        if row["what"] == "decode"
    ]
    ours, theirs = tokens_per_s(rows)
    note = "Medians; GB/s: weights and KV, each read once."
    if ours and theirs:
        note += (
            f" 64 requests of 1,024 + 128 tokens: {ours:,.0f} tokens/s, transformers "
            f"{(of(rows, 'transformers') or {})['version']}: {theirs:,.0f}."
        )
    return table("Decode steps", ("requests × context|", "ms", "GB/s"), made, note)


if __name__ == "__main__":
    found = main(*(Path(argument).resolve() for argument in sys.argv[1:3]))
    sys.exit(0 if all(each.passed for each in found) else 1)
