"""Runs `pytest -m rdma` where there is RDMA: in a guest with a stock Debian kernel and its software RDMA device.

    python tests/rdma/guest.py [PYTEST ARGUMENTS]      a part of what `make test-rdma` does
    python tests/rdma/guest.py --program "bench/rdma.py --seconds 3"             another program

The guest loads `rdma_rxe` over its loopback, and runs the host's own Python and tests. Exit status: pytest's; 77 where
something is missing to try (which, is said); 78 where the guest did not come up.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys

from machine import MODULES, SKIPPED, Guest, Machines, Missing, install

PYTEST = "-m pytest -m rdma -rs -p no:cacheprovider --basetemp=/run/tmp/pytest"
LOOPBACK = "rdma link add rxe0 type rxe netdev lo"
LIMIT_S = 900  # the tests have taken 500
NOT_UP = 78


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", help="instead of the tests: a program of this repository, and its arguments")
    parser.add_argument("--install", action="store_true", help="install what is missing, where this user may")
    options, arguments = parser.parse_known_args()
    if options.install:
        install()
    program = options.program or f"{PYTEST} {shlex.join(arguments)} tests/rdma tests/test_networks.py"
    try:
        machines = Machines("one", MODULES)
    except Missing as why:
        print(f"SKIPPED: {why}")
        return SKIPPED
    guest = Guest("guest", f"{sys.executable} {program}", LOOPBACK)
    machines.boot(guest, LIMIT_S).wait()
    status = machines.result(guest)
    return status if machines.has_booted(guest) else NOT_UP


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
