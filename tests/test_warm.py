"""After a warm-up nothing of the main loop is left to compile or to load."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import pytest
from dualpath import warm
from dualpath.cluster_file import load_cluster
from dualpath.core.arms import ARMS
from dualpath.core.commands import Command
from dualpath.core.events import Event, TurnEnded
from dualpath.core.scheduler import Scheduler
from dualpath.warm import warm_parts, warm_up


@pytest.mark.parametrize("arm", ARMS)
def test_a_warm_up_sees_every_kind_of_event_and_leaves_nothing(
    arm: str, cluster_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Event] = []
    schedulers: list[Scheduler] = []

    class Watched(Scheduler):
        def handle(self, event: Event) -> list[Command]:
            schedulers.append(self)
            told.append(event)
            return super().handle(event)

    monkeypatch.setattr(warm, "Scheduler", Watched)
    warm_up(load_cluster(cluster_file()).cluster, ARMS[arm])
    assert {type(event).__name__ for event in told} == {
        "TurnDue",
        "ReadDone",
        "PrefillComputed",
        "PrefillSent",
        "BufferFreed",
        "TurnEnded",
    }
    assert sum(isinstance(event, TurnEnded) for event in told) == 2
    assert not schedulers[0].flights


def test_what_was_there_before_is_not_looked_through_by_later_collections(cluster_file: Callable[..., Path]) -> None:
    imported = [object()]
    assert any(each is imported for each in gc.get_objects())
    warm_up(load_cluster(cluster_file()).cluster, ARMS["basic"])
    try:
        assert not any(each is imported for each in gc.get_objects())
    finally:
        gc.unfreeze()


def test_what_is_warm_depends_on_what_there_is() -> None:
    assert (
        warm_parts(null=True, on_gpu=True)
        == "a trajectory of its own has gone through the scheduler, and trajectories that start at once are read"
    )
    assert warm_parts(null=False, on_gpu=False).endswith("holds its weights; no forward pass has run")
    assert "CUDA graphs" in warm_parts(null=False, on_gpu=True)
