"""SimPy's event loop: timeouts that do nothing, by an interpreter that has SimPy.

As many processes as events shall be pending; each waits for one timeout after the other. sim_speed.py starts a fresh
process for each; the last line of stdout is one JSON object. Example:

    bench/out/side-sims/bin/python bench/sim_speed_simpy.py --events 1000000 --pending 64
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import resource
import sys
import time
from collections.abc import Iterator

import simpy


def wait(environment: simpy.Environment, delays: Iterator[float]) -> Iterator[simpy.Timeout]:
    while True:
        yield environment.timeout(next(delays))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--pending", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    delays = itertools.cycle([draw.random() for _ in range(100_003)])  # drawn before the clock starts
    environment = simpy.Environment()
    for _ in range(options.pending):
        environment.process(wait(environment, delays))
    for _ in range(options.pending):  # processes begin
        environment.step()
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    for _ in range(options.events):
        environment.step()
    result = {
        "seconds": time.perf_counter() - wall_s,
        "cpu_s": time.process_time() - cpu_s,
        "events": options.events,
        "pending": options.pending,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "version": simpy.__version__,
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
