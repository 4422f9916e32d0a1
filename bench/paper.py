"""The paper's experiment: simulates every cell that a figure or table of the paper needs, two at a time.

    python bench/paper.py [--figure fig7 ...] [--out bench/out/paper]

A finished run of the same plan, sources and constants is kept, so an interrupted sweep goes on where it stopped.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from dualpath.core.errors import DualpathError
from dualpath.paper.cells import unique
from dualpath.paper.figures import FIGURES
from dualpath.paper.sweep import WORKERS, sweep

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", nargs="+", choices=FIGURES, default=list(FIGURES), help="default: all of them")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "out" / "paper")
    parser.add_argument("--workers", type=int, default=WORKERS, help="runs at once (default: %(default)s)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: else the workers would go on alone
    cells = unique(cell for name in arguments.figure for cell in FIGURES[name].cells)
    swept = sweep(cells, ROOT, arguments.out, max(1, arguments.workers))
    for failure in swept.failed:
        print(f"VOID {failure}")
    print(f"{len(cells)} cells: {swept.kept} kept, {swept.ran} run, {len(swept.failed)} of them void")
    if swept.is_interrupted:
        return 130
    return 2 if swept.failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        sys.exit(main())
    except DualpathError as error:
        sys.exit(f"error: {error}")
