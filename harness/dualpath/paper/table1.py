"""Table 1: bytes of cache to load per FLOP to compute, by model; closed form, nothing is run."""

from __future__ import annotations

from dualpath.paper.cache_compute import CONTEXTS, SHAPES
from dualpath.paper.cells import Cell
from dualpath.paper.draw import panels
from dualpath.paper.numbers import Number, belief_of
from dualpath.paper.part import Part
from dualpath.paper.runs import Results
from dualpath.report.figure import Figure, finish

CELLS: tuple[Cell, ...] = ()
SINGLE = 0.12
_COLOURS = ("#e0605a", "#e8833a", "#6fae45", "#3f7fe0", "#94a1b2")

BELIEFS = {
    "paper.table1.DeepSeek-V3": "how many bytes and FLOPs the paper counts for latent attention is not stated",
    "paper.table1.DeepSeek-V3_2": "how many bytes and FLOPs the paper counts for latent attention is not stated",
}
Points = dict[str, dict[str, float]]


def report(results: Results) -> Part:
    known: Points = {
        row["model"]: {context: row[f"gb_per_pflop_{context}"] for context in CONTEXTS}
        for row in results.theirs.table("table1_cache_compute").iter_rows(named=True)
    }
    numbers = []
    for model, points in known.items():
        for context, value in points.items():
            id = f"paper.table1.{model.replace('.', '_')}.{context}"
            numbers.append(
                Number(
                    id=id,
                    what=f"cache-compute ratio of {model} at {context.upper()}",
                    ours=SHAPES[model].gb_per_pflop(CONTEXTS[context]),
                    theirs=value,
                    tolerance=SINGLE,
                    unit="GB/PFLOP",
                    belief=belief_of(id, BELIEFS),
                )
            )
    return Part(
        id="table1",
        title="Table 1: cache-compute ratio",
        text="Bytes of KV cache that a turn of 429 appended tokens must load, over the FLOPs that it must compute: a "
        "closed form from the models' public shapes. The ratio grows with the context as long as the arithmetic is "
        "dominated by the parameters; where attention dominates, it levels off.",
        numbers=tuple(numbers),
        figures=(_figure(known),),
    )


def _figure(known: Points) -> Figure:
    drawing, grid = panels(1, 1, 2.6)
    axes = grid[0][0]
    contexts = [8 * 1024 * 2 ** (step / 8) for step in range(33)]
    for (model, points), colour in zip(known.items(), _COLOURS, strict=True):
        values = [SHAPES[model].gb_per_pflop(int(context)) for context in contexts]
        axes.plot(contexts, values, color=colour, linewidth=1.7)
        axes.plot([CONTEXTS[c] for c in points], list(points.values()), "o", mfc="none", mec=colour, ms=7, mew=1.4)
        side = {"Qwen3-235B-A22B": "bottom", "DeepSeek-V3.2": "top"}.get(model, "center")
        axes.annotate(model, (contexts[-1] * 1.05, values[-1]), va=side, color=colour, annotation_clip=False)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([8192 * 2**k for k in range(5)], ["8K", "16K", "32K", "64K", "128K"])
    axes.set_yticks([5, 10, 20, 50, 100, 200], ["5", "10", "20", "50", "100", "200"])
    axes.minorticks_off()
    axes.set_xlim(8192, 8192 * 16)
    axes.set_xlabel("context, tokens")
    axes.set_ylabel("GB per PFLOP")
    drawing.subplots_adjust(right=0.8)
    return finish(
        drawing,
        "table1-ratio",
        "How much must be loaded per FLOP",
        "Lines: the closed form. Rings: the two contexts that the paper's table has.",
    )
