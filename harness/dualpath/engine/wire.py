"""The control channel: sockets that only holders of the run's token can use.

ZeroMQ's CURVE encrypts and authenticates it. Both sides derive the coordinator's key pair from the token, so who does
not know the token can neither join, nor listen in, nor pass for the coordinator.
"""

from __future__ import annotations

import hashlib
import re
from typing import TypeAlias

import zmq
from zmq.utils import z85

from dualpath.core.errors import PlanError

TOKEN_VARIABLE = "DUALPATH_TOKEN"  # environment variable that takes a run's token to its engines and hosts
_SHORTEST_TOKEN = 16

Socket: TypeAlias = "zmq.Socket[bytes]"


def engine_identity(engine: int, run: str) -> bytes:
    return f"engine-{engine}-{run}".encode()


def check_token(token: str) -> None:
    """Raises PlanError: a token that can be guessed protects nothing."""
    if len(token) < _SHORTEST_TOKEN or len(set(token)) < _SHORTEST_TOKEN // 2:
        raise PlanError(
            f"{TOKEN_VARIABLE} has {len(token)} characters, {len(set(token))} different ones; it takes at least "
            f"{_SHORTEST_TOKEN}, drawn at random and the same on all hosts: openssl rand -hex 16"
        )


def check_address(address: str, knob: str) -> str:
    """'10.0.0.1:7000' -> 'tcp://10.0.0.1:7000'. Raises PlanError."""
    match = re.fullmatch(r"(?:tcp://)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})", address)
    if match is None or not 0 < int(match[2]) < 65536:
        raise PlanError(f"{knob} {address!r} is not HOST:PORT, such as 10.0.0.1:7000")
    return f"tcp://{match[1]}:{match[2]}"


def listen(context: zmq.Context[Socket], address: str, token: str) -> tuple[Socket, str]:
    """A ROUTER socket, and the address at which processes of this host reach it. Raises PlanError."""
    public, secret = _keys(token)
    socket = _socket(context, zmq.ROUTER)
    socket.linger = 0
    socket.sndhwm = 0  # any number unsent: who has a full queue when it dies would be waited for for ever
    socket.router_mandatory = True
    socket.curve_server = True
    socket.curve_publickey, socket.curve_secretkey = public, secret
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        socket.close()
        raise PlanError(f"--listen {address}: cannot be listened at: {error.strerror}; choose another") from None
    bound = socket.getsockopt_string(zmq.LAST_ENDPOINT)
    return socket, bound.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def join(context: zmq.Context[Socket], address: str, token: str, identity: bytes, most_unsent: int = 0) -> Socket:
    """A DEALER socket to the coordinator, which need not be there yet: what is sent waits for it, so many messages (0:
    any number)."""
    socket = _socket(context, zmq.DEALER)
    socket.sndhwm = most_unsent
    socket.identity = identity
    socket.curve_serverkey = _keys(token)[0]
    socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
    socket.connect(address)
    return socket


def _socket(context: zmq.Context[Socket], kind: int) -> Socket:
    socket = context.socket(kind)
    socket.ipv6 = True
    return socket


def _keys(token: str) -> tuple[bytes, bytes]:
    """(public, secret) of the coordinator. Slow on purpose: tens of ms for each guess at a token."""
    secret = z85.encode(hashlib.scrypt(token.encode(), salt=b"dualpath control channel", n=1 << 14, r=8, p=1, dklen=32))
    return zmq.curve_public(secret), secret
