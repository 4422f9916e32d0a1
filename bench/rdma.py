"""RDMA measured: what posting costs, how much of the link it reaches, and whether one class of traffic is safe from the
other. Raw rows go to bench/out/rdma; reports/rdma.py makes the page.

    python bench/rdma.py [--out bench/out/rdma]

Runs in emulated guests: one for cost and rate, two on a link of 100 Mbit/s in two classes for isolation; ten minutes.
Each file of rows begins with what was measured, where, and with which commit. With real NICs, run bench/rdma_cost.py
and bench/isolation_verbs.py on your hosts and give the report a folder of their rows. Exits with 77 where there is
something missing to try (which, is said).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from dualpath.isolation import LINK_MBIT
from dualpath.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
GUESTS = ROOT / "tests" / "rdma"
FAR = "10.77.0.2:7010"
STEPS = {
    "cost": [str(GUESTS / "guest.py"), "--install", "--program", "bench/rdma_cost.py"],
    "isolation": [
        *(str(GUESTS / "two_guests.py"), "--install", "--shape-mbit", str(LINK_MBIT)),
        *("--near", f"bench/isolation_verbs.py near {FAR}", "--far", f"bench/isolation_verbs.py far --listen {FAR}"),
    ],
    "models": [str(ROOT / "bench" / "isolation_models.py")],
}
WHERE = {"cost": "one emulated machine", "isolation": "two emulated machines", "models": "this machine"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "out" / "rdma")
    parser.add_argument("--only", choices=[*STEPS], action="append", help="one step; may be repeated")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only or STEPS:
        print(f"{name} ...", end=" ", flush=True)
        started_s = time.monotonic()
        done = subprocess.run([sys.executable, *STEPS[name]], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        rows = [line for line in done.stdout.splitlines() if line.startswith("{")]
        rows.insert(0, json.dumps({"what": "made", "where": WHERE[name], "link_mbit": LINK_MBIT, **provenance()}))
        print(f"{len(rows) - 1:,} rows, {time.monotonic() - started_s:.0f} s")
        if done.returncode:
            print("\n".join(line for line in done.stdout.splitlines() if not line.startswith("{"))[-3000:])
            return done.returncode
        (options.out / f"{name}.jsonl").write_text("\n".join(rows) + "\n")  # whole or not at all
    return 0


if __name__ == "__main__":
    sys.exit(main())
