"""What the first turns of a run are not to wait for is done before its clock starts: compiled code is compiled, or
loaded, and garbage collected."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence

from dualpath.core.arms import Arm
from dualpath.core.cluster import Cluster
from dualpath.core.commands import Command, Decode, Prefill, Read
from dualpath.core.events import (
    BufferFreed,
    Event,
    PrefillComputed,
    PrefillSent,
    ReadDone,
    Request,
    TurnDue,
    TurnEnded,
)
from dualpath.core.feed import Feed, Start
from dualpath.core.scheduler import Scheduler
from dualpath.core.trajectory import Trajectory, Turn


def warm_up(cluster: Cluster, arm: Arm) -> None:
    """Take one trajectory through a feed and a scheduler of its own, with nobody executing."""
    tokens = 2 * cluster.block_tokens
    feed = Feed([Start(0, [Trajectory("warm-up", (Turn(tokens, 1), Turn(1, 1)))])], block_tokens=cluster.block_tokens)
    scheduler = Scheduler(cluster, arm)
    for number in range(2):
        for due in feed.due(0):
            todo: list[Event] = [TurnDue(0, Request(number, due.trajectory, due.turn, tokens + number, 1, 1))]
            while todo:
                todo += _answers(scheduler.handle(todo.pop(0)))
            feed.ended(due.trajectory, due.turn, 0)
    gc.unfreeze()  # what an earlier run of this process has left
    gc.collect()
    gc.freeze()  # or a full collection walks all that was imported, and turns are sent 0.1 s late


def warm_parts(*, null: bool, on_gpu: bool) -> str:
    """What a run of the real engine finds warm when its clock starts, in words. null: no engines."""
    parts = ["a trajectory of its own has gone through the scheduler, and trajectories that start at once are read"]
    if not null:
        parts.append("every engine has started and holds its weights")
        parts.append(
            "copies are compiled, and CUDA graphs, where the model has them, captured and run"
            if on_gpu
            else "no forward pass has run"
        )
    return "; ".join(parts)


def _answers(commands: Sequence[Command]) -> Iterator[Event]:
    """What happens where every command is done at once."""
    for command in commands:
        match command:
            case Read(request=request, side=side):
                yield ReadDone(0, request, side)
            case Prefill(engine=engine, batch=batch):
                yield PrefillComputed(0, engine, batch, 0)
                yield PrefillSent(0, engine, batch)
            case Decode(request=request):
                yield BufferFreed(0, request)
                yield TurnEnded(0, request, None, 0, None)
            case _:
                pass
