"""The report on RDMA: is one class of traffic safe from the other, what does posting cost, how fast is it.

    python reports/rdma.py [ROWS [OUT]]        default: bench/out/rdma reports/out/rdma

Reads the rows of bench/rdma.py (isolation.jsonl, models.jsonl, cost.jsonl); writes the page, its figures and
checks.json. What was not measured fails its checks; it does not stop the report. Exits with 1 where a check failed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import polars as pl
from dualpath.report import style
from dualpath.report.figure import Figure, finish
from dualpath.report.sections import Section, Tile
from dualpath.report.style import INK, PART_COLOURS, SOFT_INK, rules
from dualpath.report.table import NONE, Table, number, table
from dualpath.report.tables import checks_table
from dualpath.report.write import write_page
from dualpath.results.checks import RUN_MISSING, Check, at_least
from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parents[1]
TITLE = "KV over RDMA: isolation of traffic classes, cost of posting, share of the link"
LEAST_RATIO = 4.0  # of p50: a probe in the flood's class over one in its own
LEAST_SHARE = 0.85  # of what ib_write_bw reaches
MESSAGE = "1 MiB"
VERBS = "verbs"
QUIET, SAME, OWN, HALF = "quiet", "same", "own", "half"
COLOURS = {QUIET: "#94a1b2", SAME: PART_COLOURS["prefill"], OWN: PART_COLOURS["read"], HALF: PART_COLOURS["allocate"]}
MEANING = {
    QUIET: "no flood",
    SAME: "flood in the probes' class",
    OWN: "flood in KV's class",
    HALF: "flood in KV's class, probes' far end marked as KV",
}
FLOODED = {  # what is flooded -> the id of its check, and what a probe is
    "write, flood": ("write", "4 KiB writes, flood beside their data"),
    "write, flood of acks' way": ("ack", "4 KiB writes, flood beside their answers"),
    "read, flood": ("read", "4 KiB reads, flood beside their data"),
}
CAVEATS = (
    "Two emulated machines (QEMU without KVM, one core each) with the kernel's software RDMA device: absolute times "
    "are emulation's. A quiet 4 KiB write takes about 2 ms here and microseconds on a NIC. What carries over is the "
    "ratio of a probe in the flood's class to one in its own, because queueing on the link makes it: ahead of the "
    "probe lies what the flood has under way.",
    "The link is shaped to 100 Mbit/s by `tc htb` on both senders, two classes by DSCP (46 and 8) of 98:1 with 1 % for "
    "what is neither (ARP, TCP): the paper's 99:1 of virtual lanes on Ethernet. No switch, PFC or ECN takes part. The "
    "paper asserts isolation (section 4) and shows no figure of it; no number of the paper is met or missed here.",
    "p99 over 150 probes is the second largest of them, and other work of the machine moves it: shown, not judged.",
)


def main(rows_dir: Path | None = None, out_dir: Path | None = None) -> list[Check]:
    """Read the rows, compute the checks, write the report, print a summary. Returns the checks."""
    folder = rows_dir or ROOT / "bench" / "out" / "rdma"
    isolation = pl.concat([load(folder / f"{name}.jsonl", PROBES) for name in ("isolation", "models")])
    cost = load(folder / "cost.jsonl", COST)
    checks = [*isolation_checks(isolation, folder), share_check(cost, folder)]
    style.apply()
    page = write_page(
        out_dir or ROOT / "reports" / "out" / "rdma",
        title=TITLE,
        tiles=tiles(checks),
        caveats=CAVEATS,
        sections=sections(isolation, cost, checks),
        counts=(len(isolation) + len(cost), 0),
        checks=checks,
        computed_from="the raw rows in the files named by the checks",
    )
    for check in checks:
        value = "not measured" if check.value is None else f"{check.value:,.3g}"
        print(f"{'pass' if check.passed else 'FAIL'} {check.id}: {value} (bound {check.bound}) {check.note}")
    print(f"{sum(check.passed for check in checks)} of {len(checks)} checks passed; report: {near(page)}")
    return checks


PROBES = {
    "by": pl.String,
    "case": pl.String,
    "repeat": pl.Int64,
    "probe": pl.Int64,
    "latency_ns": pl.Int64,
    "flood_mb_per_s": pl.Float64,
}
COST = {
    "what": pl.String,
    "bytes": pl.Int64,
    "per_doorbell": pl.Int64,
    "ns": pl.Float64,
    "by": pl.String,
    "mb_per_s": pl.Float64,
    "repeat": pl.Int64,
}


def load(path: Path, schema: dict[str, type[pl.DataType]]) -> pl.DataFrame:
    return pl.read_ndjson(path, schema=schema) if path.exists() else pl.DataFrame(schema=schema)


def by_repeat(rows: pl.DataFrame) -> pl.DataFrame:
    """Of every case and repeat: p50_ms, p99_ms, flood_mb_per_s."""
    latency_ms = pl.col("latency_ns") / 1e6
    return rows.group_by("by", "case", "repeat", maintain_order=True).agg(
        latency_ms.median().alias("p50_ms"),
        latency_ms.quantile(0.99, "higher").alias("p99_ms"),
        pl.col("flood_mb_per_s").first(),
        pl.len().alias("probes"),
    )


def ratio(rows: pl.DataFrame, by: str, over: str, under: str) -> list[float]:
    """p50 of one case over that of another, repeat by repeat."""
    found = by_repeat(rows.filter(pl.col("by") == by))
    pairs = found.filter(pl.col("case") == over).join(found.filter(pl.col("case") == under), on="repeat")
    return sorted((pairs["p50_ms"] / pairs["p50_ms_right"]).to_list())


def isolation_checks(rows: pl.DataFrame, folder: Path) -> Iterator[Check]:
    """The smallest ratio of all repeats: an isolation that only holds on average is none."""
    for by, name in ((VERBS, "isolation"), ("pacer", "models"), ("simulator", "models")):
        file = (str(near(folder / f"{name}.jsonl")),)
        for flooded, (id, what) in FLOODED.items():
            if by != VERBS and id != "write":
                continue  # they have no acknowledgements, and a read is a write the other way
            found = ratio(rows, by, f"{flooded}: {SAME}", f"{flooded}: {OWN}")
            yield ratio_check(
                f"rdma.isolation.{by}.{id}", f"{what}, {by}: p50 in its class over own class", found, file
            )
    for flooded, (id, what) in FLOODED.items():
        if id != "write":
            found = ratio(rows, VERBS, f"{flooded}: {HALF}", f"{flooded}: {OWN}")
            what = f"{what}: p50 with one end marked over both ends marked (priority is lost)"
            yield ratio_check(f"rdma.isolation.half.{id}", what, found, (str(near(folder / "isolation.jsonl")),))


def ratio_check(id: str, what: str, found: list[float], file: tuple[str, ...]) -> Check:
    note = f"repeats: {', '.join(f'{value:.1f}' for value in found)}" if found else RUN_MISSING
    return at_least(id, what, found[0] if found else None, LEAST_RATIO, note=note, rows=file)


def share_check(rows: pl.DataFrame, folder: Path) -> Check:
    shares = rates(rows)
    note = f"repeats: {', '.join(f'{share:.2f}' for share in shares)}" if shares else RUN_MISSING
    value = sorted(shares)[len(shares) // 2] if shares else None
    what = f"one-sided writes of {MESSAGE} over ib_write_bw's on the same device, median"
    return at_least("rdma.share", what, value, LEAST_SHARE, note=note, rows=(str(near(folder / "cost.jsonl")),))


def rates(rows: pl.DataFrame) -> list[float]:
    """Ours over perftest's, repeat by repeat."""
    writes = rows.filter(pl.col("what") == "write")
    ours, theirs = (writes.filter(pl.col("by") == by) for by in ("dualpath", "ib_write_bw"))
    pairs = ours.join(theirs, on="repeat")
    return (pairs["mb_per_s"] / pairs["mb_per_s_right"]).to_list()


def tiles(checks: list[Check]) -> list[Tile]:
    values = {check.id: check.value for check in checks}
    detail = "p50, flood in the probes' class over own class"
    return [
        Tile("writes, isolated by", f"{number(values['rdma.isolation.verbs.write'])}×", detail),
        Tile("acknowledgements, by", f"{number(values['rdma.isolation.verbs.ack'])}×", detail),
        Tile("reads, by", f"{number(values['rdma.isolation.verbs.read'])}×", detail),
        Tile("of ib_write_bw", number(values["rdma.share"]), f"one-sided writes of {MESSAGE}, at least 0.85"),
        Tile("checks passed", f"{sum(check.passed for check in checks)} / {len(checks)}", "each with its bound, below"),
    ]


def sections(isolation: pl.DataFrame, cost: pl.DataFrame, checks: list[Check]) -> list[Section]:
    failed = [check for check in checks if not check.passed]
    found = [
        Section("failed", "Checks that failed", "", (), (checks_table("Checks that failed", failed),)),
        Section(
            "isolation",
            "Isolation",
            "One probe of 4 KiB at a time stands for a collective; a flood keeps four writes of 64 KiB under way, from "
            "a process of its own. A queue pair's mark holds for what its own end sends: the data of writes, but for "
            "reads the other end's, and for writes the other end answers. So both ends must be marked alike: where "
            "only the near end is, answers and read data stand in line with the KV. " + beside_quiet(isolation),
            (probes_figure(isolation), models_figure(isolation)) if len(isolation) else (),
            (isolation_table(isolation),),
        ),
        Section(
            "cost",
            "Posting and rate",
            "Software RDMA moves the bytes itself while they are posted, so the rows of Layer Blocks say what a move "
            "costs here; what posting costs is the row of 64 bytes. Many requests per doorbell save the doorbell, a "
            "system call of this device, and all completions but one.",
            (),
            (cost_table(cost), rate_table(cost)),
        ),
        Section("checks", "Checks", "", (), (checks_table("Checks", checks),), is_folded=True),
    ]
    return [section for section in found if section.tables[0].rows]


def beside_quiet(rows: pl.DataFrame) -> str:
    """What a flood in a class of its own still costs."""
    costs = {}
    for flooded, (_, what) in FLOODED.items():
        found = ratio(rows, VERBS, f"{flooded}: {OWN}", f"{flooded.partition(',')[0]}, {QUIET}")
        if found:
            costs[what] = f"{what} {found[0]:.1f} to {found[-1]:.1f}"
    return f"A flood in a class of its own over no flood, p50 by repeat: {'; '.join(costs.values())}." if costs else ""


def isolation_table(rows: pl.DataFrame) -> Table:
    """Medians over repeats, with their range."""
    made = []
    for (by, case), found in by_repeat(rows).group_by("by", "case", maintain_order=True):
        probes = f"{found['probes'].sum():,}"
        flood = found["flood_mb_per_s"].median()
        shown = NONE if not flood else f"{flood:.1f}"
        made.append((str(by), str(case), *(spread(found[column]) for column in ("p50_ms", "p99_ms")), shown, probes))
    note = "Medians over three repeats, interleaved, and their range. " + "; ".join(
        f"{name}: {meaning}" for name, meaning in MEANING.items()
    )
    return table("Latency of probes", ("through|", "case|", "p50 ms", "p99 ms", "flood MB/s", "probes"), made, note)


def spread(values: pl.Series) -> str:
    middle, low, high = values.median(), values.min(), values.max()
    return f"{number(middle)} ({number(low)}–{number(high)})"  # type: ignore[arg-type]


def probes_figure(rows: pl.DataFrame) -> Figure:
    """Distributions of every probe, over the two hosts."""
    drawing, panels = plt.subplots(1, 3, figsize=(7.6, 2.9), sharex=True, sharey=True)
    for axes, (flooded, (_, what)) in zip(panels, FLOODED.items(), strict=True):
        quiet = f"{flooded.partition(',')[0]}, {QUIET}"
        for name, case in ((QUIET, quiet), *((name, f"{flooded}: {name}") for name in (OWN, HALF, SAME))):
            found = rows.filter(pl.col("by") == VERBS, pl.col("case") == case)["latency_ns"].sort() / 1e6
            if len(found):
                shares = [(place + 1) / len(found) for place in range(len(found))]
                dashes = (0, (4, 2)) if name == HALF else "solid"
                axes.step(found, shares, where="post", color=COLOURS[name], linewidth=1.6, linestyle=dashes, label=name)
        axes.set_title("\n".join(what.split(", ")), fontsize=8.5)
        in_plain_ms(axes, (1, 2, 5, 10, 20, 50))
        axes.set_xlabel("latency, ms")
        rules(axes, "both")
    panels[0].set_ylabel("share of probes")
    handles = {text: line for axes in panels for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    labels = [MEANING[name] for name in handles]
    drawing.legend(handles.values(), labels, loc="lower center", ncol=2, bbox_to_anchor=(0.5, -0.13))
    drawing.tight_layout()
    caption = (
        "Every probe of three repeats over two emulated hosts, cumulative; further left is faster. Where the flood has "
        "a class of its own, probes stay near those of a quiet link, in all three directions: the flood takes the "
        "hosts' one core, too. In the flood's class they wait for what it has under way on the link. The dashed line "
        "is a queue pair of which only one end is marked: as slow as none. Times are emulation's; compare curves, not "
        "milliseconds with a NIC's."
    )
    return finish(drawing, "isolation", "Small transfers beside a flood of KV", caption)


def in_plain_ms(axes: Axes, ticks: tuple[float, ...]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def models_figure(rows: pl.DataFrame) -> Figure:
    """The same writes through RDMA, the pacer and the simulator."""
    found = by_repeat(rows)
    throughs = [by for by in (VERBS, "pacer", "simulator") if by in found["by"].to_list()]
    cases = {QUIET: f"write, {QUIET}", OWN: f"write, flood: {OWN}", SAME: f"write, flood: {SAME}"}
    drawing, axes = plt.subplots(figsize=(7.6, 2.3))
    for row, by in enumerate(reversed(throughs)):
        for name, case in cases.items():
            p50s = found.filter(pl.col("by") == by, pl.col("case") == case)["p50_ms"]
            if len(p50s):
                middle = float(p50s.median())  # type: ignore[arg-type]
                axes.plot(p50s, [row] * len(p50s), "o", color=COLOURS[name], markersize=7, alpha=0.55, mew=0)
                offset = {QUIET: -0.26, OWN: 0.3, SAME: 0.3}[name]
                axes.text(middle, row + offset, f"{middle:.2g} ms", ha="center", va="center", fontsize=8, color=INK)
    axes.set_yticks(range(len(throughs)), reversed(throughs))
    axes.set_ylim(-0.6, len(throughs) - 0.4)
    in_plain_ms(axes, (0.2, 0.5, 1, 2, 5, 10, 20))
    axes.set_xlabel("p50 of 4 KiB writes, ms: each dot is a repeat")
    axes.tick_params(axis="y", colors=SOFT_INK)
    rules(axes)
    for name in cases:
        axes.plot([], [], "o", color=COLOURS[name], label=MEANING[name])
    axes.legend(loc="lower center", ncol=3, bbox_to_anchor=(0.5, 1.0))
    caption = (
        "The same probes and flood on a link of 100 Mbit/s: over RDMA between two emulated hosts, through the pacer "
        "that processes of the real engine share (real time, shared memory), and through the simulator's links "
        "(virtual time). All three separate the lanes alike; what RDMA takes longer when quiet is emulation and "
        "protocol, which the models do not have."
    )
    return finish(drawing, "isolation-models", "RDMA, the pacer and the simulator side by side", caption)


def cost_table(rows: pl.DataFrame) -> Table:
    made = []
    for num_bytes in sorted(set(rows.filter(pl.col("what") == "post")["bytes"])):
        of = rows.filter(pl.col("bytes") == num_bytes)
        post = of.filter(pl.col("what") == "post")
        alone, many = (
            post.filter(pl.col("per_doorbell") == each)["ns"] / 1e3 for each in (1, post["per_doorbell"].max())
        )
        copy = of.filter(pl.col("what") == "copy")["ns"] / 1e3
        saved = [one / other for one, other in zip(alone, many, strict=True)]
        made.append(
            (f"{num_bytes:,}", spread(alone), spread(many), f"{sorted(saved)[len(saved) // 2]:.1f}×", spread(copy))
        )
    columns = ("bytes", "posted alone, µs", "64 per doorbell, µs", "alone / batched", "plain copy, µs")
    note = "Per work request, in Python, medians of three repeats and their range."
    return table("What posting costs", columns, made, note)


def rate_table(rows: pl.DataFrame) -> Table:
    writes = rows.filter(pl.col("what") == "write")
    made = [
        (by, spread(writes.filter(pl.col("by") == by)["mb_per_s"]))
        for by in ("dualpath", "ib_write_bw")
        if by in writes["by"].to_list()
    ]
    return table(f"One-sided writes of {MESSAGE}, one device", ("by|", "MB/s"), made)


def near(path: Path) -> Path:
    """Relative to the working directory where the path lies below it: reports travel, machines do not."""
    path = path.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    found = main(*(Path(argument).resolve() for argument in sys.argv[1:3]))
    sys.exit(0 if all(check.passed for check in found) else 1)
