"""What weakens the numbers of a report: sentences said before any of them, and a few words beside each."""

from __future__ import annotations

from dualpath.report import latency_tables
from dualpath.report.cells import Cell, Evidence
from dualpath.results.bound import noise
from dualpath.results.run import Run


def caveats(evidence: Evidence) -> list[str]:
    """What a reader must know before any number: mixed hosts or commits, page cache, unpaced or verified runs."""
    results = [run for cell in evidence.cells for run in cell.runs]
    hosts = {str(sorted(run.manifest.host.items())) for run in results}
    commits = {run.manifest.commit for run in results}
    dirty = sum(bool(run.manifest.dirty) for run in results)
    cached, in_memory = sum(map(_is_cached, results)), sum(map(_is_in_memory, results))
    simulated = sum(run.manifest.backend == "sim" for run in results)
    slowed = sum(run.manifest.deterministic or run.manifest.verify for run in results)
    late = latency_tables.degraded_caveat(results)
    found = [
        (late, late),
        (len(hosts) > 1, f"The runs come from {len(hosts)} hosts; ratios between them are not measured side by side."),
        (len(commits) > 1, f"The runs come from {len(commits)} commits; see Provenance before comparing them."),
        (dirty, f"{dirty} of {len(results)} runs were made with uncommitted changes."),
        (cached, f"{cached} of {len(results)} runs read storage through the page cache."),
        (in_memory, f"{in_memory} of {len(results)} runs kept storage in memory."),
        (simulated, f"{simulated} of {len(results)} runs are simulated, not measured."),
        (slowed, f"{slowed} of {len(results)} runs were deterministic or verified every block, which costs time."),
    ]
    return [text for is_so, text in found if is_so]


def beside(evidence: Evidence, *of: Cell) -> tuple[str, ...]:
    """For a number of some cells, or of all: its noise, what it leaves out, what stands in. A few words each."""
    cells = of or evidence.cells
    runs = [run for cell in cells for run in cell.runs]
    clusters = {run.cluster.name for run in runs}
    left_out = sum(not of or run.cluster.name in clusters for run in evidence.void)
    measured = [cell for cell in cells if cell.middle.manifest.backend == "engine"]
    spreads = [repeats.spread for cell in measured if (repeats := noise(cell.runs)) is not None]
    found = [
        (spreads, f"A against A: up to {max(spreads, default=0):.1%}"),
        (measured and not spreads, "not repeated: noise unknown"),
        (left_out, f"{left_out} void {'run' if left_out == 1 else 'runs'} left out"),
        *((count, words if count == len(runs) else f"{words}: {count} of {len(runs)} runs") for words, count in (
            ("simulated", sum(run.manifest.backend == "sim" for run in runs)),
            ("engines share a GPU", sum(map(_shares_gpus, runs))),
            ("storage in memory", sum(map(_is_in_memory, runs))),
            ("read through the page cache", sum(map(_is_cached, runs))),
            ("random weights", sum(map(_has_random_weights, runs))),
        )),
    ]  # fmt: skip
    return tuple(words for is_so, words in found if is_so)


def _shares_gpus(run: Run) -> bool:
    sides = (run.cluster.prefill, run.cluster.decode)
    return 0 < len(run.manifest.host.get("gpus", ())) < sum(side.nodes * side.engines_per_node for side in sides)


def _is_in_memory(run: Run) -> bool:
    return run.manifest.storage.get("filesystem") == "tmpfs"


def _is_cached(run: Run) -> bool:
    return run.manifest.storage.get("direct_io") is False and not _is_in_memory(run)


def _has_random_weights(run: Run) -> bool:
    return any(part == "model" and "random weights" in here for part, _, here in run.manifest.stand_ins)
