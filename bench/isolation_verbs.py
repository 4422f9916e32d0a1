"""What a flood of KV does to small writes and reads of another class, on two hosts with RDMA. Prints raw rows as JSON.

    export DUALPATH_TOKEN=$(openssl rand -hex 16)                  # the same on both hosts
    python bench/isolation_verbs.py far --listen 10.0.0.2:7010
    python bench/isolation_verbs.py near 10.0.0.2:7010 > rows.jsonl

The 4 KiB probes stand for collectives. They go one at a time; a flood keeps FLOOD_DEPTH x FLOOD_BYTES under way, from a
process of its own on either host. Model traffic is marked DSCP 46, KV DSCP 8; that switches, NICs or `tc` serve the
two as classes is for whoever set up the link. What a queue pair's mark decides is what *its end* sends: data of writes
near, their acknowledgements and the data of reads far. So the cases:

    quiet     no flood
    same      a flood in the probes' class
    own       a flood in KV's class
    half      the same, but the far end of the probes' queue pair has KV's mark
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import select
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import msgspec
import zmq
from dualpath.core.errors import DualpathError
from dualpath.engine.pacer import Lane
from dualpath.engine.rdma.memory import Memory
from dualpath.engine.rdma.nic import Nic
from dualpath.engine.rdma.queue_pair import Posted, QueuePair, Work
from dualpath.engine.rdma.settings import End, LaneClass, PortFacts, RdmaSettings
from dualpath.engine.wire import TOKEN_VARIABLE, Socket, check_address, check_token, join, listen

SETTINGS = RdmaSettings(kv=LaneClass(traffic_class=8 << 2), model=LaneClass(traffic_class=46 << 2), timeout_s=60)
PROBE_BYTES = 4096
PROBES, GAP_S = 150, 0.004
FLOOD_BYTES, FLOOD_DEPTH = 64 << 10, 4
SETTLE_S = 0.3  # from a flood's begin to the first probe
REPEATS = 3
MARKS: dict[str, tuple[Lane, Lane]] = {"own": ("model", "model"), "half": ("model", "kv")}  # near, far


class Case(NamedTuple):
    name: str
    probe: Literal["write", "read"]
    marks: str
    flood_by: Literal["near", "far"] | None
    flood_lane: Lane


CASES = (
    Case("write, quiet", "write", "own", None, "kv"),
    Case("write, flood: same", "write", "own", "near", "model"),
    Case("write, flood: own", "write", "own", "near", "kv"),
    Case("write, flood of acks' way: same", "write", "own", "far", "model"),
    Case("write, flood of acks' way: own", "write", "own", "far", "kv"),
    Case("write, flood of acks' way: half", "write", "half", "far", "kv"),
    Case("read, quiet", "read", "own", None, "kv"),
    Case("read, flood: same", "read", "own", "far", "model"),
    Case("read, flood: own", "read", "own", "far", "kv"),
    Case("read, flood: half", "read", "half", "far", "kv"),
)


class Side(msgspec.Struct):
    """What a process must know of its counterpart on the other host."""

    port: PortFacts
    ends: dict[str, End]
    address: int
    key: int


class Meet(msgspec.Struct, tag=True):
    probes: Side
    flood: Side


class Flood(msgspec.Struct, tag=True):
    lane: Lane


class Rest(msgspec.Struct, tag=True):
    pass


class Moved(msgspec.Struct, tag=True):
    num_bytes: int
    seconds: float


class Bye(msgspec.Struct, tag=True):
    pass


Said = Meet | Flood | Rest | Moved | Bye


class Party:
    """Queue pairs by name, and memory to move."""

    def __init__(self, lanes: dict[str, Lane], num_bytes: int) -> None:
        self.nic = Nic(SETTINGS, len(lanes))
        self.pairs: dict[str, QueuePair] = {name: self.nic.queue_pair(lane) for name, lane in lanes.items()}
        self._bytes = mmap.mmap(-1, num_bytes)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._bytes))
        self.memory: Memory = self.nic.register(address, num_bytes, is_shared=True)
        self._peer: Side | None = None

    def side(self) -> Side:
        ends = {name: pair.end for name, pair in self.pairs.items()}
        return Side(self.nic.facts, ends, self.memory.address, self.memory.remote_key)

    def connect(self, peer: Side) -> None:
        self._peer = peer
        for name, pair in self.pairs.items():
            pair.connect(name, peer.port, peer.ends[name])

    def post(self, name: str, kind: Literal["read", "write"], num_bytes: int) -> Posted:
        assert self._peer is not None
        work = [Work(self.memory.address, self._peer.address, num_bytes)]
        return self.pairs[name].post(kind, self.memory, self._peer.key, work)


class Flooder:
    """A process of its own that floods while it is told to."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "flooder"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.side = self._answer(Side)

    def tell(self, message: Side | Flood | Rest) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(message) + b"\n")
        self._process.stdin.flush()

    def rest(self) -> Moved:
        self.tell(Rest())
        return self._answer(Moved)

    def _answer(self, kind: type[Any]) -> Any:
        assert self._process.stdout is not None
        return msgspec.json.decode(self._process.stdout.readline(), type=kind)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


def flooder() -> None:
    """The body of that process: JSON lines in and out."""
    party = Party({"kv": "kv", "model": "model"}, FLOOD_BYTES)

    def say(message: Side | Moved) -> None:
        print(msgspec.json.encode(message).decode(), flush=True)

    say(party.side())
    party.connect(msgspec.json.decode(sys.stdin.buffer.readline(), type=Side))
    while line := sys.stdin.buffer.readline():
        lane = msgspec.json.decode(line, type=Flood).lane
        started_s, num_bytes = time.monotonic(), 0
        under_way = deque(party.post(lane, "write", FLOOD_BYTES) for _ in range(FLOOD_DEPTH))
        while not select.select([sys.stdin], [], [], 0)[0]:
            party.nic.wait(under_way.popleft())
            num_bytes += FLOOD_BYTES
            under_way.append(party.post(lane, "write", FLOOD_BYTES))
        seconds = time.monotonic() - started_s
        for posted in under_way:
            party.nic.wait(posted)
        msgspec.json.decode(sys.stdin.buffer.readline(), type=Rest)
        say(Moved(num_bytes, seconds))
    party.nic.close()


def far(address: str, token: str) -> None:
    """Answers near; its NIC does the rest."""
    socket, _ = listen(zmq.Context[Socket](), check_address(address, "--listen"), token)
    party, flood = Party({name: marks[1] for name, marks in MARKS.items()}, PROBE_BYTES), Flooder()
    decoder = msgspec.msgpack.Decoder(Said)
    while True:
        sender, payload = socket.recv_multipart()
        match decoder.decode(payload):
            case Meet() as peer:
                answer: Meet | Moved = Meet(party.side(), flood.side)
                party.connect(peer.probes)
                flood.tell(peer.flood)
            case Flood() as message:
                flood.tell(message)
                answer = Moved(0, 0.0)
            case Rest():
                answer = flood.rest()
            case _:
                break
        socket.send_multipart([sender, msgspec.msgpack.encode(answer)])
    flood.close()
    party.nic.close()
    socket.close()


def near(address: str, token: str) -> Iterator[dict[str, Any]]:
    """Rows."""
    context = zmq.Context[Socket]()
    socket = join(context, check_address(address, "HOST:PORT"), token, b"near", queues=True)
    party, flood = Party({name: marks[0] for name, marks in MARKS.items()}, PROBE_BYTES), Flooder()
    decoder = msgspec.msgpack.Decoder(Said)

    def ask(message: Meet | Flood | Rest) -> Any:
        socket.send(msgspec.msgpack.encode(message))
        if not socket.poll(120_000):
            raise DualpathError(f"{address}: nobody answers; start `isolation_verbs.py far` there, with this token")
        return decoder.decode(socket.recv())

    peer = ask(Meet(party.side(), flood.side))
    party.connect(peer.probes)
    flood.tell(peer.flood)
    for repeat in range(REPEATS):
        for case in CASES:
            if case.flood_by == "near":
                flood.tell(Flood(case.flood_lane))
            elif case.flood_by == "far":
                ask(Flood(case.flood_lane))
            time.sleep(SETTLE_S)
            latencies_ns = [probe_ns(party, case) for _ in range(PROBES)]
            moved = flood.rest() if case.flood_by == "near" else ask(Rest()) if case.flood_by == "far" else Moved(0, 0)
            rate = moved.num_bytes / moved.seconds / 1e6 if moved.seconds else 0.0
            for number, latency_ns in enumerate(latencies_ns):
                yield {
                    "by": "verbs",
                    "case": case.name,
                    "repeat": repeat,
                    "probe": number,
                    "latency_ns": latency_ns,
                    "flood_mb_per_s": rate,
                }
    socket.send(msgspec.msgpack.encode(Bye()))
    flood.close()
    party.nic.close()
    socket.close(linger=2_000)
    context.term()


def probe_ns(party: Party, case: Case) -> int:
    """From posting to the completion, by this host's clock."""
    time.sleep(GAP_S)
    started_ns = time.monotonic_ns()
    party.nic.wait(party.post(case.marks, case.probe, PROBE_BYTES))
    return time.monotonic_ns() - started_ns


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    roles = parser.add_subparsers(dest="role", required=True)
    roles.add_parser("far", help="answers").add_argument("--listen", metavar="HOST:PORT", required=True)
    roles.add_parser("near", help="measures").add_argument("address", metavar="HOST:PORT")
    roles.add_parser("flooder", help="started by the other two")
    options = parser.parse_args()
    if options.role == "flooder":
        flooder()
        return 0
    token = os.environ.get(TOKEN_VARIABLE, "")
    check_token(token)
    if options.role == "far":
        far(options.listen, token)
        return 0
    for row in near(options.address, token):
        print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DualpathError as error:
        sys.exit(f"error: {error}")
