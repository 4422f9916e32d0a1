"""The compiled scheduler against the plain one: the same commands, in the same order, after every event."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from reference_scheduler import ReferenceScheduler
from worlds import World, play, worlds


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(worlds())
def test_the_scheduler_answers_as_the_reference_does(world: World) -> None:
    played = play(world)
    reference = ReferenceScheduler(world.cluster, world.arm)
    for event, answer in zip(played.events, played.answers, strict=True):
        assert reference.handle(event) == answer, event
