"""Runs a simulation in slices: takes trajectories in when they are needed, hands finished rows out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dualpath.core.arms import Arm
from dualpath.core.cluster import Cluster
from dualpath.core.errors import ClusterError
from dualpath.core.feed import Feed
from dualpath.core.least import NEVER
from dualpath.sim.machine import DONE, NEED_ARRIVALS, NEED_ROOM, ROWS_FULL, STUCK, go_on
from dualpath.sim.parts import grow_parts, new_parts
from dualpath.sim.profile import Profile

Rows = npt.NDArray[np.void]
_SLICE_EVENTS = 2_000_000  # between looks at Ctrl-C and the progress bar: about half a second
_AHEAD = 4096  # trajectories taken at once


@dataclass(frozen=True, slots=True)
class Sinks:
    """Who takes what a simulation has finished."""

    turns: Callable[[Rows, Feed], None]  # TURN_ROW; trajectories are known to the feed while this runs
    passes: Callable[[Rows], None]  # PASS_ROW
    events: Callable[[npt.NDArray[np.int64]], None] | None  # rows of Parts.log; None: they are not kept


class Simulator:
    """One run in virtual time, of a cluster that passed `check`. `parts` may be looked at between slices."""

    def __init__(
        self, cluster: Cluster, arm: Arm, profile: Profile, feed: Feed, sinks: Sinks, bucket_ns: int = 100_000_000
    ) -> None:
        self._feed = feed
        self._sinks = sinks
        self.parts = new_parts(
            cluster, arm, profile, feed.agents, feed.turns.rows, bucket_ns, keep_log=sinks.events is not None
        )

    @property
    def now_ns(self) -> int:
        return int(self.parts.counts[0].now_ns)

    def run_slice(self, until_ns: int = NEVER) -> bool:
        """Simulate a little; returns whether there is more to do before until_ns."""
        arrival_ns = self._feed.next_arrival_ns
        horizon_ns = until_ns if arrival_ns is None else min(until_ns, arrival_ns)
        why = go_on(self.parts, horizon_ns, _SLICE_EVENTS)
        assert why != STUCK, "a turn waits for what nobody will give: Cluster.check_fits saw to it"
        if why == NEED_ROOM:
            grow_parts(self.parts, 2 * len(self.parts.slots))
        elif why == ROWS_FULL:
            self.hand_out()
        elif why == NEED_ARRIVALS and horizon_ns < until_ns:
            self.hand_out()  # before the feed forgets who has ended
            for _ in range(_AHEAD):
                if self._feed.next_arrival_ns is None:
                    break
                self._feed.take_next()
            self.parts.put(turns=self._feed.turns.rows)
        elif why in (DONE, NEED_ARRIVALS):
            self.hand_out()
            self._feed.forget()
            return False
        return True

    def hand_out(self) -> None:
        """Give the sinks what is finished."""
        counts = self.parts.counts[0]
        num_turns, num_passes, num_events = int(counts.turns), int(counts.passes), int(counts.log)
        counts.turns = counts.passes = counts.log = 0  # first: what fails is not given twice
        if num_turns:
            self._sinks.turns(self.parts.turn_rows[:num_turns], self._feed)
        if num_passes:
            self._sinks.passes(self.parts.pass_rows[:num_passes])
        if self._sinks.events is not None and num_events:
            self._sinks.events(self.parts.log[:num_events])
        self._feed.forget()


def check(cluster: Cluster, profile: Profile) -> None:
    """Raises ClusterError for a cluster that the profile cannot be applied to."""
    if cluster.num_decode % profile.step_engines:
        raise ClusterError(
            f"{cluster.name}: step_engines = {profile.step_engines} does not divide its {cluster.num_decode} decode "
            "engines; change [decode] or the profile"
        )
