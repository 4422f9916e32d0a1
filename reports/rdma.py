"""The report on RDMA: is one class of traffic safe from the other, what does posting cost, how fast is it.

    python reports/rdma.py [ROWS [OUT]]        default: bench/out/rdma reports/out/rdma

Reads the rows of bench/rdma.py (isolation.jsonl, models.jsonl, cost.jsonl); writes the page, its figures and
checks.json. What was not measured fails its checks; it does not stop the report. Exits with 1 where a check failed.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import polars as pl
from dualpath.isolation import FLOOD_BYTES, FLOOD_DEPTH, PROBE_BYTES
from dualpath.report import style
from dualpath.report.figure import Figure, finish
from dualpath.report.near import near
from dualpath.report.sections import Section, Tile
from dualpath.report.style import INK, PART_COLOURS, SOFT_INK, rules
from dualpath.report.table import NONE, Shown, Table, number, shown, table
from dualpath.report.tables import checks_table
from dualpath.report.write import write_page
from dualpath.results.checks import RUN_MISSING, Check, at_least, at_most
from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parents[1]
TITLE = "KV over RDMA: isolation of traffic classes, cost of posting, rate"
LEAST_RATIO = 4.0  # of p50: a probe in the flood's class over one in its own
# What a probe waits longer than on a quiet link, over what the flood keeps under way on the link, p50:
OWN_CLASS = {"verbs": 0.25, "pacer": 0.05, "simulator": 0.05}  # at most, where the flood has KV's class
FLOODS_CLASS = (0.6, 1.3)  # where it has the probes'
KV_SHARE = (0.002, 0.03)  # of a link that both lanes flood
LEAST_SHARE = 0.85  # of what ib_write_bw reaches
MESSAGE = "1 MiB"
VERBS = "verbs"
BY = (VERBS, "pacer", "simulator")
QUIET, SAME, OWN, HALF = "quiet", "same", "own", "half"
COLOURS = {QUIET: "#94a1b2", SAME: PART_COLOURS["prefill"], OWN: PART_COLOURS["read"], HALF: PART_COLOURS["allocate"]}
MEANING = {
    QUIET: "no flood",
    SAME: "flood in the probes' class",
    OWN: "flood in KV's class",
    HALF: "flood in KV's class, probes' far end marked as KV",
}
LANES = ("model", "kv")
EMULATED = ("emulated hosts", "software RDMA device")
IDS = {("write", "data"): "write", ("write", "answers"): "ack", ("read", "data"): "read"}


def words(probe: str, beside: str) -> str:
    return f"{PROBE_BYTES >> 10} KiB {probe}s, flood beside their {beside}"


def main(rows_dir: Path | None = None, out_dir: Path | None = None) -> list[Check]:
    """Read the rows, compute the checks, write the report, print a summary. Returns the checks."""
    folder = rows_dir or ROOT / "bench" / "out" / "rdma"
    files = {name: load(folder / f"{name}.jsonl") for name in ("isolation", "models", "cost")}
    probes = frame([*files["isolation"], *files["models"]], "probe", PROBES)
    shares = frame(files["isolation"], "share", SHARES)
    cost = pl.concat([frame(files["cost"], what, COST) for what in ("post", "move", "copy", "write")])
    names = {name: (str(near(folder / f"{name}.jsonl")),) for name in files}
    checks = [*isolation_checks(probes, files, names), *share_checks(shares, names), rate_check(cost, names)]
    style.apply()
    page = write_page(
        out_dir or ROOT / "reports" / "out" / "rdma",
        title=TITLE,
        tiles=tiles(checks),
        caveats=list(caveats(files)),
        sections=sections(probes, shares, cost, checks),
        counts=(sum(bool(rows) for rows in files.values()), 0),
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
    "probe": pl.String,
    "beside": pl.String,
    "how": pl.String,
    "repeat": pl.Int64,
    "latency_ns": pl.Int64,
    "flood_mb_per_s": pl.Float64,
}
SHARES = {"repeat": pl.Int64, "lane": pl.String, "floods": pl.List(pl.String), "mb_per_s": pl.Float64}
COST = {
    "what": pl.String,
    "bytes": pl.Int64,
    "per_doorbell": pl.Int64,
    "ns": pl.Float64,
    "by": pl.String,
    "mb_per_s": pl.Float64,
    "repeat": pl.Int64,
}
Row = dict[str, Any]


def load(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def frame(rows: list[Row], what: str, schema: dict[str, Any]) -> pl.DataFrame:
    found = [{name: row.get(name) for name in schema} for row in rows if row["what"] == what]
    return pl.DataFrame(found, schema=schema)


def head(rows: list[Row], what: str) -> Row:
    return next((row for row in rows if row["what"] == what), {})


def caveats(files: dict[str, list[Row]]) -> Iterator[str]:
    made, setting = head(files["isolation"], "made"), head(files["isolation"], "setting")
    if not setting:
        yield "Isolation was not measured: run bench/rdma.py first."
    if "emulated" in made.get("where", ""):
        yield (
            f"Isolation was measured between {made['where']} (QEMU without KVM, one core each) with the kernel's "
            f"software RDMA device, on a link that `tc htb` shapes to {made['link_mbit']} Mbit/s on both senders: two "
            "classes by DSCP (46 and 8) of 98:1, and 1 % for what is neither (ARP, TCP). That is the paper's 99:1 of "
            "virtual lanes, on Ethernet; no switch, PFC or ECN takes part. Absolute times are emulation's, and this "
            "suite's own: who waits for a completion sleeps 50 µs between looks, which takes longer there."
        )
    elif setting:
        yield f"Isolation was measured on device {setting['device']}; what serves its classes, whoever ran it must say."
    yield (
        "How many times slower a probe is in the flood's class follows from how much the flood keeps under way, over "
        "the link's rate, and from what a quiet probe takes: it is another number with another flood, link or NIC. "
        "What holds elsewhere is what the checks say in times: in the flood's class a probe waits for what lies "
        "ahead on the link; in its own it does not."
    )
    yield (
        "The paper asserts isolation (section 4) and shows no figure of it: no number of the paper is met or missed "
        "here. The bounds of what is waited for were chosen after first runs had been seen."
    )
    commits = {head(rows, "made").get("commit") for rows in files.values() if rows}
    dirty = any(head(rows, "made").get("dirty") for rows in files.values())
    if len(commits) > 1 or dirty:
        yield "Not all rows were made by one commit as it stands: the files' first lines say by which."


def by_repeat(rows: pl.DataFrame) -> pl.DataFrame:
    """Of every case and repeat: p50_ms, p99_ms, flood_mb_per_s."""
    latency_ms = pl.col("latency_ns") / 1e6
    return rows.group_by("by", "probe", "beside", "how", "repeat", maintain_order=True).agg(
        latency_ms.median().alias("p50_ms"),
        latency_ms.quantile(0.99, "equiprobable").alias("p99_ms"),
        pl.col("flood_mb_per_s").first(),
        pl.len().alias("probes"),
    )


def case(rows: pl.DataFrame, by: str, probe: str, beside: str, how: str) -> pl.DataFrame:
    """A case's repeats. On a quiet link there is no direction."""
    beside = "data" if how == QUIET else beside
    return by_repeat(rows.filter(by=by, probe=probe, beside=beside, how=how))


def ratios(
    rows: pl.DataFrame, by: str, probe: str, beside: str, over: str, under: str, of: str = "p50_ms"
) -> list[float]:
    """One case over another, repeat by repeat."""
    one, other = (case(rows, by, probe, beside, how) for how in (over, under))
    pairs = one.join(other, on="repeat")
    return (pairs[of] / pairs[f"{of}_right"]).to_list()


def queue_shares(rows: pl.DataFrame, by: str, probe: str, beside: str, how: str, setting: Row) -> list[float]:
    """What a probe waits longer than on a quiet link, over what the flood keeps under way on the link."""
    flooded, quiet = (case(rows, by, probe, beside, each) for each in (how, QUIET))
    pairs = flooded.join(quiet, on="repeat")
    if pairs.is_empty():
        return []
    ahead_ms = setting["flood_depth"] * setting["flood_bytes"] * 8 / (setting["link_mbit"] * 1e3)
    return ((pairs["p50_ms"] - pairs["p50_ms_right"]) / ahead_ms).to_list()


def isolation_checks(
    rows: pl.DataFrame, files: dict[str, list[Row]], names: dict[str, tuple[str, ...]]
) -> Iterator[Check]:
    """Of several repeats the worst counts: an isolation that holds on average only is none."""
    for by in BY:
        name = "isolation" if by == VERBS else "models"
        setting = head(files[name], "setting")
        for (probe, beside), id in IDS.items():
            if by != VERBS and id != "write":
                continue  # they have no answers, and a read is a write the other way
            what = f"{words(probe, beside)}, {by}"
            queue = "p50 waits longer than without a flood, over what the flood keeps under way"
            found = queue_shares(rows, by, probe, beside, OWN, setting)
            most, limit = max(found, default=None), OWN_CLASS[by]
            what_own = f"{what}: flood in KV's class: {queue}"
            yield at_most(f"rdma.{by}.{id}.own", what_own, most, limit, note=listed(found), rows=names[name])
            found = queue_shares(rows, by, probe, beside, SAME, setting)
            worst = max(found, key=lambda share: abs(share - 1), default=None)
            what_same = f"{what}: flood in the probes' class: {queue}"
            yield between(f"rdma.{by}.{id}.same", what_same, worst, FLOODS_CLASS, listed(found), names[name])
            if by == VERBS:
                found = ratios(rows, by, probe, beside, SAME, OWN)
                what_ratio = f"{what}: p50 in the flood's class over a class of its own"
                yield ratio_check(f"rdma.{by}.{id}.ratio", what_ratio, found, names[name])
    for (probe, beside), id in IDS.items():
        if id != "write":
            found = ratios(rows, VERBS, probe, beside, HALF, OWN)
            what = f"{words(probe, beside)}: p50 with one end marked over both ends marked (the class is lost)"
            yield ratio_check(f"rdma.verbs.{id}.half", what, found, names["isolation"])


def ratio_check(id: str, what: str, found: list[float], rows: tuple[str, ...]) -> Check:
    return at_least(id, what, min(found, default=None), LEAST_RATIO, note=listed(found), rows=rows)


def between(
    id: str, what: str, value: float | None, bounds: tuple[float, float], note: str, rows: tuple[str, ...]
) -> Check:
    passed = value is not None and bounds[0] <= value <= bounds[1]
    return Check(id, what, value, "1", f"{bounds[0]:g} to {bounds[1]:g}", passed, note, rows)


def listed(found: list[float]) -> str:
    return f"repeats: {', '.join(number(value) for value in found)}" if found else RUN_MISSING


def share_checks(rows: pl.DataFrame, names: dict[str, tuple[str, ...]]) -> Iterator[Check]:
    both = rows.filter(pl.col("floods").list.len() == 2)
    of_both = both.group_by("repeat", maintain_order=True).agg(
        (pl.col("mb_per_s").filter(pl.col("lane") == "kv").sum() / pl.col("mb_per_s").sum()).alias("share")
    )["share"]
    found = of_both.to_list()
    worst = max(found, key=lambda share: abs(share - 0.01), default=None)
    what = "KV's share of a link that both lanes flood (1 % is meant)"
    yield between("rdma.verbs.share", what, worst, KV_SHARE, listed(found), names["isolation"])


def rate_check(rows: pl.DataFrame, names: dict[str, tuple[str, ...]]) -> Check:
    writes = rows.filter(pl.col("what") == "write")
    ours, theirs = (writes.filter(pl.col("by") == by) for by in ("dualpath", "ib_write_bw"))
    pairs = ours.join(theirs, on="repeat")
    found = (pairs["mb_per_s"] / pairs["mb_per_s_right"]).to_list()
    value = statistics.median(found) if found else None
    what = f"one-sided writes of {MESSAGE} over ib_write_bw's on the same device, median"
    return at_least("rdma.rate", what, value, LEAST_SHARE, note=listed(found), rows=names["cost"])


def tiles(checks: list[Check]) -> list[Tile]:
    values = {check.id: check.value for check in checks}
    found = [
        Tile(
            f"of the queue: {label}",
            number(values[f"rdma.verbs.{id}.own"]),
            f"waited for, KV in its own class; {number(values[f'rdma.verbs.{id}.same'])} in theirs",
            EMULATED,
        )
        for label, id in (("writes", "write"), ("their answers", "ack"), ("reads", "read"))
    ]
    return [
        *found,
        Tile("of ib_write_bw", number(values["rdma.rate"]), f"one-sided writes of {MESSAGE}, at least 0.85"),
        Tile("checks passed", f"{sum(check.passed for check in checks)} / {len(checks)}", "each with its bound, below"),
    ]


def sections(probes: pl.DataFrame, shares: pl.DataFrame, cost: pl.DataFrame, checks: list[Check]) -> list[Section]:
    failed = [check for check in checks if not check.passed]
    found = [
        Section("failed", "Checks that failed", "", (), (checks_table("Checks that failed", failed),)),
        Section(
            "isolation",
            "Isolation",
            f"One probe of {PROBE_BYTES >> 10} KiB at a time stands for a collective; a flood keeps {FLOOD_DEPTH} "
            f"writes of {FLOOD_BYTES >> 10} KiB under way, from a process of its own. A queue pair's mark holds for "
            "what its own end sends: the data of writes, but for reads the other end's, and for writes the other end "
            "answers. So both ends must be marked alike: where only the near end is, answers and read data stand in "
            "line with the KV. Last, both lanes flood the link.",
            (probes_figure(probes), models_figure(probes)) if len(probes) else (),
            (isolation_table(probes), shares_table(shares)),
            caveats=EMULATED,
        ),
        Section(
            "cost",
            "Posting and rate",
            "A software device moves bytes while they are posted, and finishes later, so what posting itself costs is "
            "the row of 64 bytes: alone each request has a doorbell, a system call of this device, and a completion; "
            "batched, one of each for 64.",
            (),
            (cost_table(cost), rate_table(cost)),
            caveats=EMULATED,
        ),
        Section("checks", "Checks", "", (), (checks_table("Checks", checks),), is_folded=True),
    ]
    return [section for section in found if section.tables[0].rows]


def isolation_table(rows: pl.DataFrame) -> Table:
    """Medians over repeats, with their range."""
    made = []
    for (by, probe, beside, how), found in by_repeat(rows).group_by(
        "by", "probe", "beside", "how", maintain_order=True
    ):
        times = [spread(found[column]) for column in ("p50_ms", "p99_ms")]
        over = [
            spread(pl.Series(ratios(rows, str(by), str(probe), str(beside), str(how), QUIET, of)))
            for of in ("p50_ms", "p99_ms")
        ]
        flood = found["flood_mb_per_s"].median()
        what = f"{probe}, {MEANING[str(how)]}" + ("" if how == QUIET else f" beside {beside}")
        made.append((str(by), what, *times, *over, number(flood) if flood else NONE, int(found["probes"].sum())))  # type: ignore[arg-type]
    columns = ("through|", "case|", "p50 ms", "p99 ms", "p50 / quiet", "p99 / quiet", "flood MB/s", "probes")
    note = "Medians over repeats, interleaved, and their range; ratios are to the quiet repeat of the same round."
    return table("Latency of probes", columns, made, note)


def shares_table(rows: pl.DataFrame) -> Table:
    made = []
    for floods in (["model"], ["kv"], ["kv", "model"]):
        of = rows.filter(pl.col("floods").list.join("+") == "+".join(floods))
        cells = [spread(of.filter(pl.col("lane") == lane)["mb_per_s"]) if lane in floods else NONE for lane in LANES]
        made.append((" and ".join(floods), *cells))
    shown = made if len(rows) else []
    return table("Lanes that flood", ("who floods|", *(f"{lane} MB/s" for lane in LANES)), shown)


def spread(values: pl.Series) -> str:
    if values.is_empty():
        return NONE
    low, middle, high = (float(value) for value in (values.min(), values.median(), values.max()))  # type: ignore[arg-type]
    texts = [shown(value, ",.0f") if value >= 1000 else number(value) for value in (middle, low, high)]
    if len(values) == 1:
        return texts[0]
    return Shown.of("{} ({}–{})".format(*texts), value=middle, low=low, high=high)


def probes_figure(rows: pl.DataFrame) -> Figure:
    """Distributions of every probe, over the two hosts."""
    drawing, panels = plt.subplots(1, 3, figsize=(7.6, 2.9), sharex=True, sharey=True)
    for axes, (probe, beside) in zip(panels, IDS, strict=True):
        for how in (QUIET, OWN, HALF, SAME):
            direction = "data" if how == QUIET else beside
            found = rows.filter(by=VERBS, probe=probe, beside=direction, how=how)["latency_ns"].sort() / 1e6
            if len(found):
                shares = [(place + 1) / len(found) for place in range(len(found))]
                dashes = (0, (4, 2)) if how == HALF else "solid"
                axes.step(found, shares, where="post", color=COLOURS[how], linewidth=1.6, linestyle=dashes, label=how)
        axes.set_title("\n".join(words(probe, beside).split(", ")), fontsize=8.5)
        in_plain_ms(axes, (1, 2, 5, 10, 20, 50))
        axes.set_xlabel("latency, ms")
        rules(axes, "both")
    panels[0].set_ylabel("share of probes")
    handles = {text: line for axes in panels for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    labels = [MEANING[name] for name in handles]
    drawing.legend(handles.values(), labels, loc="lower center", ncol=2, bbox_to_anchor=(0.5, -0.13))
    drawing.tight_layout()
    caption = (
        "Every probe of all repeats over RDMA between two hosts, cumulative; further left is faster. In the flood's "
        "class a probe waits for what the flood keeps under way on the link. In a class of its own it does not; what "
        "it still loses against a quiet link is in the table, and may be the hosts' one core, which probes and flood "
        "share: that was not measured apart. Dashed: only the near end of the probes' queue pair is marked, and the "
        "class is lost."
    )
    return finish(drawing, "isolation", "Small transfers beside a flood of KV", caption)


def in_plain_ms(axes: Axes, ticks: tuple[float, ...]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def models_figure(rows: pl.DataFrame) -> Figure:
    """The same writes through RDMA, the pacer and the simulator."""
    throughs = [by for by in BY if by in rows["by"].to_list()]
    drawing, axes = plt.subplots(figsize=(7.6, 2.3))
    for row, by in enumerate(reversed(throughs)):
        for how, offset in ((QUIET, -0.26), (OWN, 0.3), (SAME, 0.3)):
            p50s = case(rows, by, "write", "data", how)["p50_ms"]
            if len(p50s):
                middle = float(p50s.median())  # type: ignore[arg-type]
                axes.plot(p50s, [row] * len(p50s), "o", color=COLOURS[how], markersize=7, alpha=0.55, mew=0)
                axes.text(middle, row + offset, f"{middle:.2g} ms", ha="center", va="center", fontsize=8, color=INK)
    axes.set_yticks(range(len(throughs)), reversed(throughs))
    axes.set_ylim(-0.6, len(throughs) - 0.4)
    in_plain_ms(axes, (0.2, 0.5, 1, 2, 5, 10, 20))
    axes.set_xlabel("p50 of 4 KiB writes, ms: each dot is a repeat")
    axes.tick_params(axis="y", colors=SOFT_INK)
    rules(axes)
    for how in (QUIET, OWN, SAME):
        axes.plot([], [], "o", color=COLOURS[how], label=MEANING[how])
    axes.legend(loc="lower center", ncol=3, bbox_to_anchor=(0.5, 1.0))
    caption = (
        "The same probes and flood on a link of the same rate: over RDMA between two hosts, through the pacer that "
        "processes of the real engine share (real time, shared memory), and through the simulator's links (virtual "
        "time, so one repeat). All three make a probe in the flood's class wait for the same bytes. The models have "
        "no protocol, no emulation and no polling, so their quiet probes take little but the link's own time."
    )
    return finish(drawing, "isolation-models", "RDMA, the pacer and the simulator side by side", caption)


def cost_table(rows: pl.DataFrame) -> Table:
    made = []
    for num_bytes in sorted(set(rows.filter(what="post")["bytes"])):
        of = rows.filter(bytes=num_bytes)
        cells = []
        for what in ("post", "move"):
            alone, many = (of.filter(what=what, per_doorbell=each)["ns"] / 1e3 for each in (1, 64))
            saved = pl.Series([one / other for one, other in zip(alone, many, strict=True)])
            saving = saved.median()
            cells += [spread(alone), spread(many), Shown.of(f"{number(saving)}×", value=saving)]  # type: ignore[arg-type]
        made.append((num_bytes, *cells, spread(of.filter(what="copy")["ns"] / 1e3)))
    posting = ("posting alone, µs", "64 per doorbell, µs", "saved")
    moving = ("moved one by one, µs", "64 under way, µs", "saved")
    note = "Per work request, in Python; medians over repeats and their range. A copy is the processor's."
    return table("What a work request costs", ("bytes", *posting, *moving, "plain copy, µs"), made, note)


def rate_table(rows: pl.DataFrame) -> Table:
    writes = rows.filter(pl.col("what") == "write")
    made = [
        (by, spread(writes.filter(pl.col("by") == by)["mb_per_s"]))
        for by in ("dualpath", "ib_write_bw")
        if by in writes["by"].to_list()
    ]
    return table(f"One-sided writes of {MESSAGE}, one device", ("by|", "MB/s"), made)


if __name__ == "__main__":
    found = main(*(Path(argument).resolve() for argument in sys.argv[1:3]))
    sys.exit(0 if all(check.passed for check in found) else 1)
