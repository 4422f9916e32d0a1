"""What a flood of KV does to small writes and reads of another class, on two hosts with RDMA. Prints raw rows as JSON.

    export DUALPATH_TOKEN=$(openssl rand -hex 16)                  # the same on both hosts
    python bench/isolation_verbs.py far --listen 10.0.0.2:7010
    python bench/isolation_verbs.py near 10.0.0.2:7010 > rows.jsonl

Cases and sizes are in harness/dualpath/isolation.py; floods come from processes of their own, on either host. Model
traffic is marked DSCP 46, KV DSCP 8; that switches, NICs or `tc` serve the two as classes is for whoever set up the
link. What a queue pair's mark decides is what *its end* sends: data of writes near, their answers and the data of reads
far. Last, both lanes flood together and no probe is sent: the shares that they get.
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
from typing import Any, Literal

import msgspec
import zmq
from dualpath.core.errors import DualpathError
from dualpath.engine.pacer import Lane
from dualpath.engine.rdma.memory import Memory
from dualpath.engine.rdma.nic import Nic
from dualpath.engine.rdma.queue_pair import Posted, QueuePair, Work
from dualpath.engine.rdma.settings import End, LaneClass, PortFacts, RdmaSettings
from dualpath.engine.wire import TOKEN_VARIABLE, Socket, check_address, check_token, join, listen
from dualpath.isolation import (
    CASES,
    FLOOD_BYTES,
    FLOOD_DEPTH,
    GAP_S,
    MARKS,
    PROBE_BYTES,
    PROBES,
    REPEATS,
    SETTLE_S,
    SHARES_S,
    Case,
    probe_rows,
    setting,
)

SETTINGS = RdmaSettings(kv=LaneClass(traffic_class=8 << 2), model=LaneClass(traffic_class=46 << 2), timeout_s=60)
LANES: tuple[Lane, ...] = ("kv", "model")
ANSWER_MS = 120_000


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
    lanes: list[Lane]


class Rest(msgspec.Struct, tag=True):
    pass


class Moved(msgspec.Struct, tag=True):
    num_bytes: dict[Lane, int]
    seconds: float

    def mb_per_s(self, lane: Lane) -> float:
        return self.num_bytes.get(lane, 0) / self.seconds / 1e6 if self.seconds else 0.0


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
        lanes = msgspec.json.decode(line, type=Flood).lanes
        started_s, moved = time.monotonic(), dict.fromkeys(lanes, 0)
        under_way = {lane: deque(party.post(lane, "write", FLOOD_BYTES) for _ in range(FLOOD_DEPTH)) for lane in lanes}
        while not select.select([sys.stdin], [], [], 0)[0]:
            if len(lanes) == 1:
                party.nic.wait(under_way[lanes[0]][0])
            else:
                party.nic.look()
                time.sleep(50e-6)
            for lane, posted in under_way.items():
                while not posted[0].left:
                    posted.popleft()
                    moved[lane] += FLOOD_BYTES
                    posted.append(party.post(lane, "write", FLOOD_BYTES))
        seconds = time.monotonic() - started_s
        for posted in under_way.values():
            for each in posted:
                party.nic.wait(each)
        msgspec.json.decode(sys.stdin.buffer.readline(), type=Rest)
        say(Moved(moved, seconds))
    party.nic.close()


def far(address: str, token: str) -> None:
    """Answers near; its NIC does the rest."""
    socket, _ = listen(zmq.Context[Socket](), check_address(address, "--listen"), token)
    party, flood = Party({name: marks[1] for name, marks in MARKS.items()}, PROBE_BYTES), Flooder()
    decoder = msgspec.msgpack.Decoder(Said)
    while socket.poll(ANSWER_MS):  # else near is gone
        sender, payload = socket.recv_multipart()
        match decoder.decode(payload):
            case Meet() as peer:
                answer: Meet | Moved = Meet(party.side(), flood.side)
                party.connect(peer.probes)
                flood.tell(peer.flood)
            case Flood() as message:
                flood.tell(message)
                answer = Moved({}, 0.0)
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
    socket = join(context, check_address(address, "HOST:PORT"), token, b"near")
    party, flood = Party({name: marks[0] for name, marks in MARKS.items()}, PROBE_BYTES), Flooder()
    decoder = msgspec.msgpack.Decoder(Said)

    def ask(message: Meet | Flood | Rest) -> Any:
        socket.send(msgspec.msgpack.encode(message))
        if not socket.poll(ANSWER_MS):
            raise DualpathError(f"{address}: nobody answers; start `isolation_verbs.py far` there, with this token")
        return decoder.decode(socket.recv())

    peer = ask(Meet(party.side(), flood.side))
    party.connect(peer.probes)
    flood.tell(peer.flood)
    yield {**setting(), "by": "verbs", "device": party.nic.facts.device}
    for repeat in range(REPEATS):
        for case in CASES:
            lanes = [case.flood_lane] if case.flood_lane else []
            if lanes and case.is_flooded_from_far:
                ask(Flood(lanes))
            elif lanes:
                flood.tell(Flood(lanes))
            time.sleep(SETTLE_S)
            latencies_ns = [probe_ns(party, case) for _ in range(PROBES)]
            moved = (ask(Rest()) if case.is_flooded_from_far else flood.rest()) if lanes else Moved({}, 0.0)
            rate = moved.mb_per_s(lanes[0]) if lanes else 0.0
            yield from probe_rows("verbs", case, repeat, latencies_ns, rate)
        for together in (["model"], ["kv"], ["kv", "model"]):
            flood.tell(Flood(together))  # type: ignore[arg-type]
            time.sleep(SHARES_S)
            moved = flood.rest()
            for lane in LANES:
                mb_per_s = moved.mb_per_s(lane)
                yield {"what": "share", "repeat": repeat, "lane": lane, "floods": together, "mb_per_s": mb_per_s}
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
