"""What a sweep found, as sentences, tables and a page; the terminal and the page say the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from dualpath.core.errors import RunError
from dualpath.report import style
from dualpath.report.digits import three_digits
from dualpath.report.figure import Figure
from dualpath.report.figures_whatif import figures
from dualpath.report.sections import Section, Tile
from dualpath.report.table import NONE, Shown, Table, number, per_cent, shown, table
from dualpath.report.write import write_page
from dualpath.results.binding import CANDIDATES, RULE
from dualpath.results.metrics import NS_PER_S
from dualpath.results.points import BASELINE, BOUND, MEASURES, NEVER, NUMBERS, PAYS_FROM, Finding, Swept, rate_text

_MEANING = {
    "snic_prefill": "busy time of the mean storage NIC of the prefill nodes",
    "snic_decode": "busy time of the mean storage NIC of the decode nodes",
    "cnic": "busy time of the mean compute NIC, of the busier side and direction",
    "dram": "busy time of the mean node's DRAM, of the busier side",
    "prefill": "longest attention and new tokens of every forward pass, and of its fixed cost the part it was full",
    "decode": "steps of every turn, their fixed cost divided among the requests that device memory has room for",
    "latency": "time of the run's longest trajectory alone on the cluster, its own transfers included",
}


def sentences(swept: Swept) -> list[str]:
    """Where another path pays, by how much, and why it does not elsewhere."""
    compared = swept.compared
    if not compared:
        return ["No point has numbers to compare yet."]
    paying = [finding for finding in compared if finding.pays]
    found = [f"Another path than {BASELINE}'s pays at {len(paying)} of {len(compared)} points ({_paying(swept)})."]
    best = max(compared, key=lambda finding: finding.gain or 0.0)
    found.append(f"Most: {_gains(swept, best)} at {best.point.text}; {_bindings(best)}.")
    given = swept.at(swept.given)
    if given is not None and given.gain is not None and given is not best:
        found.append(f"The cluster as it is: {_gains(swept, given)}; {_bindings(given)}.")
    if paying:
        found.append(f"Where it pays, {BASELINE} is bound by {_counts(paying)}.")
    if len(paying) < len(compared):
        found.append(f"Where it does not, by {_counts([finding for finding in compared if not finding.pays])}.")
    if swept.slo:
        never = sum(finding.verdict.startswith(NEVER) for finding in compared)
        found.append(f"SLO {swept.slo.text}: {never} of {len(compared)} points never meet it, whatever the arm.")
    return found


def _paying(swept: Swept) -> str:
    slo = ", or the SLO met where it did not" if swept.slo else ""
    return f"{MEASURES[swept.measure]} at least {PAYS_FROM:g} times shorter{slo}"


def _gains(swept: Swept, finding: Finding) -> str:
    ratios = {arm: finding.ratio(arm) for arm in finding.challengers}
    return ", ".join(f"{arm} {ratio:.2f}×" for arm, ratio in ratios.items() if ratio is not None)


def _bindings(finding: Finding) -> str:
    best = max(finding.challengers, key=lambda arm: finding.ratio(arm) or 0.0)
    bound = {arm: found.text for arm in (BASELINE, best) if (found := finding.binding(arm)) is not None}
    return ", ".join(f"{arm} is bound by {text}" for arm, text in bound.items())


def _counts(findings: list[Finding]) -> str:
    names = Counter(found.name for finding in findings if (found := finding.binding(BASELINE)) is not None)
    return ", ".join(f"{name} ({count})" for name, count in names.most_common())


def points_table(swept: Swept) -> Table:
    """One row per point."""
    ran = [arm for arm in swept.arms if any(arm in finding.rows for finding in swept.findings)]
    challengers = [arm for arm in ran if arm not in (BASELINE, BOUND)]
    bound_arms = [BASELINE, *challengers[:1]]
    measure = MEASURES[swept.measure]
    columns = [
        "nodes|",
        "SNIC, Gbit/s",
        "CNIC, Gbit/s",
        *(f"{arm}, {'s' if swept.measure == 'jct' else 's / ms'}" for arm in ran),
        *(f"÷ {arm}" for arm in challengers),
        *(f"{arm} is bound by|" for arm in bound_arms),
        "pays|",
    ]
    has_verdicts = any(finding.verdict for finding in swept.findings)
    rows = []
    for finding in swept.findings:
        if not finding.rows:
            continue
        cells = [
            finding.point.nodes + (" *" if finding.point == swept.given else ""),
            *map(_rate, finding.point[2:]),
            *(_times(finding, arm) for arm in ran),
            *(_ratio(finding.ratio(arm)) for arm in challengers),
            *(found.text if (found := finding.binding(arm)) else NONE for arm in bound_arms),
            NONE if finding.gain is None else "yes" if finding.pays else "no",
        ]
        rows.append([*cells, finding.verdict] if has_verdicts else cells)
    return table(
        "Every point",
        [*columns, *(["|"] if has_verdicts else [])],
        rows,
        f"Times are {measure}{'' if swept.measure == 'jct' else ' / mean TPOT'}. ÷: {measure} of {BASELINE} divided by "
        "the arm's, above 1 the arm is faster. * the cluster as its file has it.",
    )


def _times(finding: Finding, arm: str) -> str:
    seconds, tpot_ns = finding.seconds(arm), finding.rows[arm]["tpot_ns"] if arm in finding.rows else None
    text = number(seconds) if seconds is None or seconds < 1000 else shown(seconds, ",.0f")
    if seconds is None or tpot_ns is None or finding.measure == "jct":
        return text
    return Shown.of(f"{text} / {number(tpot_ns, 1e-6)}", s=seconds, tpot_ms=tpot_ns * 1e-6)


def _rate(bytes_per_s: float | None) -> str:
    text = rate_text(bytes_per_s).removesuffix(" Gbit/s")
    return text if bytes_per_s is None else Shown.of(text, value=bytes_per_s * 8e-9)


def _ratio(ratio: float | None) -> str:
    return NONE if ratio is None else Shown.of(f"{ratio:.2f}×", value=ratio)


def as_value(swept: Swept) -> dict[str, Any]:
    """Everything a program may want to know, for JSON. Times in seconds, rates in bytes per second; None: native, or
    no result."""
    return {
        "measure": swept.measure,
        "rule": RULE,
        "slo": {f"{tag}_s": limit_ns / NS_PER_S for tag, limit_ns in swept.slo.limits_ns} if swept.slo else None,
        "given": swept.given._asdict(),
        "is_interrupted": swept.is_interrupted,
        "sentences": sentences(swept),
        "points": [
            {
                **finding.point._asdict(),
                "pays": finding.pays,
                "gain": finding.gain,
                "verdict": finding.verdict,
                "arms": {arm: _arm_value(swept, finding, arm) for arm in finding.rows},
            }
            for finding in swept.findings
        ],
    }


def _arm_value(swept: Swept, finding: Finding, arm: str) -> dict[str, Any]:
    row, found = finding.rows[arm], finding.binding(arm)
    return {
        "status": row["status"],
        "error": row["error"],
        **{f"{tag}_s": None if row[f"{tag}_ns"] is None else row[f"{tag}_ns"] / NS_PER_S for tag in NUMBERS},
        "ratio": finding.ratio(arm),
        "binds": found.name if found else None,
        "rival": CANDIDATES[found.rival] if found and found.rival else None,
        "shares": {candidate: row[f"share_{candidate}"] for candidate in CANDIDATES},
        "meets_slo": finding.meets(arm) if swept.slo else None,
    }


def write_whatif(swept: Swept, out_dir: Path) -> Path:
    """index.html, report.md and the figures, as PNG and SVG. Returns the page. Raises RunError."""
    style.apply()
    maps = figures(swept)
    num_runs, num_without = swept.runs
    words = ("simulated", *([f"{num_without} of {num_runs} runs without a result"] if num_without else []))
    page = write_page(
        out_dir,
        title=f"What if: {swept.facts['trace']['name']} on {swept.facts['cluster']['name']}",
        tiles=_tiles(swept, words),
        caveats=_caveats(swept),
        sections=[
            Section("gain", "Where another path pays", " ".join(sentences(swept)), maps, caveats=words),
            Section("points", "Every point", "", (), (points_table(swept),), caveats=words),
            Section("rule", "What binds, and how that is decided", _RULE_TEXT, (), (_rule_table(), _shares(swept))),
            Section("provenance", "Provenance", "", (), (_provenance(swept),), is_folded=True),
        ],
        counts=(num_runs, num_without),
        checks=(),
        computed_from="the rows of points.parquet, one per point and arm",
    )
    _write_svgs(maps, out_dir / "figures")
    return page


_RULE_TEXT = (
    f"Rule {RULE}: each candidate says how long its work takes at least, as a share of the life of the run's longest "
    "trajectory (offline the JCT). None can exceed 1; the largest is what the run cannot get below. A candidate within "
    "a tenth of the largest is named beside it."
)


def _tiles(swept: Swept, words: tuple[str, ...]) -> list[Tile]:
    compared = swept.compared
    if not compared:
        return []
    num_paying = sum(finding.pays for finding in compared)
    tiles = [Tile("points where another path pays", f"{num_paying} / {len(compared)}", _paying(swept), words)]
    given, best = swept.at(swept.given), max(compared, key=lambda finding: finding.gain or 0.0)
    for finding, label in ((given, "the cluster as it is"), (best, "the most")):
        if finding is not None and finding.gain is not None:
            tiles.append(Tile(label, f"{finding.gain:.2f}×", finding.point.text, words))
    return tiles


def _caveats(swept: Swept) -> list[str]:
    facts = swept.facts
    found = ["Everything here is simulated: the scheduler is the engine's own, the machine is a model."]
    if not swept.is_complete:
        found.append("The sweep is not complete: run the same command again with the same -o.")
    feed = facts["feed"]
    if feed["mode"] != "offline":
        found.append(
            "Latencies are means over every turn of the trace, from the first arrival to the last token: with few "
            "trajectories the cluster is not yet, or no longer, under its full load for much of that time."
        )
    elif feed["gap_scale"] == feed["gap_s"] == 0:
        found.append("Gaps between turns are zero, as in the paper: agents load the cluster as hard as they can.")
    return found


def _rule_table() -> Table:
    rows = [(CANDIDATES[candidate], meaning) for candidate, meaning in _MEANING.items()]
    return table("Candidates", ("candidate|", "how long it needs at least|"), rows)


def _shares(swept: Swept) -> Table:
    rows = [
        (
            finding.point.nodes,
            *map(_rate, finding.point[2:]),
            arm,
            *(per_cent(row[f"share_{candidate}"]) for candidate in CANDIDATES),
        )
        for finding in swept.findings
        for arm, row in finding.rows.items()
        if row["status"] == "ok"
    ]
    columns = ("nodes|", "SNIC, Gbit/s", "CNIC, Gbit/s", "arm|", *CANDIDATES.values())
    return table("Shares", columns, rows, is_folded=True)


def _provenance(swept: Swept) -> Table:
    facts = swept.facts
    trace, cluster = facts["trace"], facts["cluster"]
    rows = [
        ("trace", f"{trace['path']}, sha256 {trace['sha256'][:16]}"),
        ("load", ", ".join(f"{name} {value}" for name, value in {**facts["feed"], **facts["selection"]}.items())),
        ("turns of a run", f"{facts['turns_planned']:,}"),
        ("cluster", f"{cluster['name']}, model {cluster['model']}, {swept.given.text}"),
        ("profile", ", ".join(f"{name} {three_digits(found['value'])}" for name, found in facts["profile"].items())),
        ("sources", str(facts["code"])),
        ("commit", f"{facts['commit']}{' with changes' if facts['dirty'] else ''}"),
        ("started", str(facts["started_at"])),
    ]
    return table("Provenance", ("|", "what|"), rows)


def _write_svgs(maps: tuple[Figure, ...], folder: Path) -> None:
    try:
        for figure in maps:
            (folder / f"{figure.id}.svg").write_text(figure.standalone_svg, encoding="utf-8")
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror}); choose another -o") from error
