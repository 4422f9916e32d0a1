"""The paper's numbers beside ours: a page, its figures, Markdown and checks.json.

    python reports/paper.py [--figure fig7 ...] [--runs bench/out/paper] [--out reports/out/paper]

A run that is missing or void fails its checks; it does not stop the report. Exits with 1 where a check failed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dualpath.core.errors import DualpathError
from dualpath.paper.figures import FIGURES
from dualpath.paper.page import write_paper
from dualpath.paper.runs import Results

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", nargs="+", choices=FIGURES, default=list(FIGURES), help="default: all of them")
    parser.add_argument("--runs", type=Path, default=ROOT / "bench" / "out" / "paper")
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "out" / "paper")
    arguments = parser.parse_args()
    results = Results(ROOT, arguments.runs.resolve())
    written = write_paper(results, arguments.out, arguments.figure)
    failed = [check for check in written.goals if not check.passed]
    for check in failed:
        value = "no value" if check.value is None else f"{check.value:.3g}"
        print(f"FAIL {check.id}: {value} (bound {check.bound}) {check.note}")
    met = sum(check.passed for check in written.singles)
    print(f"{met} of {len(written.singles)} single numbers of the paper met; those missed stay in the report, marked")
    print(f"{len(written.goals) - len(failed)} of {len(written.goals)} checks passed; report: {written.page}")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DualpathError as error:
        sys.exit(f"error: {error}")
