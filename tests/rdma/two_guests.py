"""Two hosts: two guests joined by a virtual Ethernet, each with a software RDMA device on it. One runs `pytest -m
two_hosts`, the other `dualpath worker`.

    python tests/rdma/two_guests.py    a part of what `make test-rdma` does
    python tests/rdma/two_guests.py --near "PROGRAM" --far "PROGRAM" --shape-mbit 100     other programs, a shaped link

Near is 10.77.0.1, far 10.77.0.2, whose clock is 1,000 s ahead; both may write /mnt, which is build/rdma/two/job here.
Ends when near's program has ended. Exit status: that program's; 77 where something is missing to try (which, is said);
78 where a guest did not come up.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import tempfile
import time
from pathlib import Path

from machine import MODULES, NETWORK_MODULES, SKIPPED, Guest, Machines, Missing, install

NEAR_TESTS = "-m pytest -m two_hosts -rs -p no:cacheprovider --basetemp=/run/tmp/pytest tests/rdma/test_two_hosts.py"
FAR_WORKER = f"{Path(sys.executable).with_name('dualpath')} worker 10.77.0.1:7000 --wait 240 --logs /mnt/worker"
# Guests that boot at the same time have almost the same clock, which would hide a wrong correction of it.
FAR_CLOCK = "unshare --time --fork --monotonic 1000"
LIMIT_S = 600
NOT_UP = 78
# Large enough for RDMA packets of 4096 bytes. What is not RDMA of a known class (ARP, TCP) has a class of its own.
LINK = """ip link set eth0 mtu 4200
ip address add {address}/24 dev eth0
ip link set eth0 up
{shaping}
rdma link add rxe0 type rxe netdev eth0"""
# Two classes by DSCP, 99:1, each may use what the other leaves: the paper's virtual lanes, on Ethernet.
SHAPING = """tc qdisc add dev eth0 root handle 1: htb default 30
tc class add dev eth0 parent 1: classid 1:1 htb rate {kbit}kbit ceil {kbit}kbit
tc class add dev eth0 parent 1:1 classid 1:10 htb rate {most}kbit ceil {kbit}kbit prio 0
tc class add dev eth0 parent 1:1 classid 1:20 htb rate {least}kbit ceil {kbit}kbit prio 1
tc class add dev eth0 parent 1:1 classid 1:30 htb rate {least}kbit ceil {kbit}kbit prio 0
for leaf in 10 20 30; do tc qdisc add dev eth0 parent 1:$leaf pfifo limit 1000; done
tc filter add dev eth0 parent 1: protocol ip u32 match ip dsfield 0xb8 0xfc flowid 1:10
tc filter add dev eth0 parent 1: protocol ip u32 match ip dsfield 0x20 0xfc flowid 1:20"""


def guest(name: str, number: int, program: str, wire: Path, shape_mbit: int | None) -> Guest:
    kbit = (shape_mbit or 0) * 1000
    shaping = SHAPING.format(kbit=kbit, most=kbit * 98 // 100, least=kbit // 100) if kbit else ""
    is_server, clock = ("on", f"{FAR_CLOCK} ") if name == "far" else ("off", "")
    return Guest(
        name,
        f"{clock}{sys.executable} {program}",
        LINK.format(address=f"10.77.0.{number}", shaping=shaping),
        (
            "-netdev",
            f"stream,id=wire,server={is_server},addr.type=unix,addr.path={wire}",
            "-device",
            f"virtio-net-pci,netdev=wire,mac=52:54:00:77:00:0{number}",
        ),
        cores=1,
        memory_mib=3072,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--near", default=NEAR_TESTS, help="program and arguments (default: the tests)")
    parser.add_argument("--far", default=FAR_WORKER, help="program and arguments (default: dualpath worker)")
    parser.add_argument("--shape-mbit", type=int, help="rate of the link, each direction, in two classes by DSCP")
    parser.add_argument("--limit-s", type=int, default=LIMIT_S, help="default: %(default)s")
    parser.add_argument("--install", action="store_true", help="install what is missing, where this user may")
    options = parser.parse_args()
    if options.install:
        install()
    try:
        machines = Machines("two", (*MODULES, *NETWORK_MODULES))
    except Missing as why:
        print(f"SKIPPED: {why}")
        return SKIPPED
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as folder:
        wire = Path(folder) / "wire"
        far = guest("far", 2, options.far, wire, options.shape_mbit)
        near = guest("near", 1, options.near, wire, options.shape_mbit)
        far_machine = machines.boot(far, options.limit_s, token)
        deadline_s = time.monotonic() + 10
        while not wire.exists() and time.monotonic() < deadline_s:  # QEMU makes it when it listens
            time.sleep(0.05)
        near_machine = machines.boot(near, options.limit_s, token)
        near_machine.wait()
        if not (machines.job / "far.status").exists():
            far_machine.terminate()
        far_machine.wait()
    status = machines.result(near)
    if status:
        print("--- far")
        machines.result(far)
    return status if machines.has_booted(near) and machines.has_booted(far) else NOT_UP


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
