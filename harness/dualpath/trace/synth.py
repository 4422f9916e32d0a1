"""Synthesize the paper's three trace sets (Table 2): seeded, any number of sessions, in bounded memory.

Sessions come in blocks of 500. A block is drawn from one population (population.py), then a few of its parameters
are nudged, under the same randomness, until the block meets all columns of Table 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from dualpath.core.errors import TraceError
from dualpath.core.trajectory import Trajectory, Turn
from dualpath.trace.population import (
    Columns,
    Draw,
    Floats,
    Noise,
    Population,
    columns,
    draw,
    draw_noise,
    num_turns,
)
from dualpath.trace.schema import TraceMeta

BLOCK = 500
_CLOSE_ENOUGH = 0.005  # of each column; promised is 0.01
_PULL = 0.001  # error of a column that is worth moving a knob by its standard deviation
_MAX_STEPS = 12
_NUDGE = 0.02

# Fitted by traces/fit_synth.py to all fifteen numbers of Table 2 at once, to a turn count with a coefficient of
# variation of 0.65 and a maximum of 3.75 means, and to 0.86 of turns x output generated per trajectory.
POPULATION = Population(
    first_prompt_mean=4789.0,
    first_prompt_spread=0.6703,
    append_mean=458.3,
    append_spread=0.3123,
    append_turn_spread=1.1,
    append_decline_turns=46.31,
    append_decline=0.9259,
    generate_mean=149.3,
    generate_spread=0.4761,
    generate_turn_spread=1.0,
    generate_growth=0.183,
    rate_correlation=0.4659,
    generate_autocorrelation=0.3,
    append_generate_correlation=0.17,
    early_end_share=0.1382,
    early_end_mean=3896.0,
    late_end_mean=616_100.0,
)

# What calibration may change, and how far it tends to: the standard deviation of each factor's logarithm.
KNOBS = {
    "first_prompt_mean": 0.1,
    "append_mean": 0.1,
    "append_spread": 0.02,
    "append_decline": 0.1,
    "generate_mean": 0.1,
    "generate_spread": 0.02,
    "rate_correlation": 0.05,
    "early_end_share": 0.1,
    "early_end_mean": 0.1,
    "late_end_mean": 0.1,
}


@dataclass(frozen=True, slots=True)
class TraceSet:
    """One row of the paper's Table 2, and the factors on the population that meet it on average."""

    max_len: int
    paper: Columns
    factors: dict[str, float]


# Each set's factors on the population, found by traces/fit_synth.py with blocks of 2000.
_FACTORS: dict[str, tuple[float, ...]] = {  # in the order of KNOBS
    "32k": (0.943, 1.138, 1.64, 0.765, 0.935, 0.971, 0.92, 1.01, 1.672, 1.145),
    "48k": (1.087, 0.918, 1.01, 0.884, 1.038, 1.007, 1.011, 0.892, 0.916, 1.078),
    "64k": (1.105, 0.933, 1.013, 0.937, 1.03, 1.009, 1.027, 0.886, 0.913, 1.116),
}

SETS: dict[str, TraceSet] = {
    "32k": TraceSet(32 * 1024, Columns(60, 608, 148, 28_639, 17_183), dict(zip(KNOBS, _FACTORS["32k"], strict=True))),
    "48k": TraceSet(48 * 1024, Columns(106, 474, 172, 42_607, 25_120), dict(zip(KNOBS, _FACTORS["48k"], strict=True))),
    "64k": TraceSet(64 * 1024, Columns(157, 429, 176, 55_958, 32_721), dict(zip(KNOBS, _FACTORS["64k"], strict=True))),
}


def synthesize(set_name: str, sessions: int, seed: int) -> Iterator[Trajectory]:
    """Yield `sessions` trajectories of the set `32k`, `48k` or `64k`. Same arguments, same trajectories.

    Raises TraceError for an unknown set or fewer than one session.
    """
    chosen = _chosen(set_name, sessions)
    return _sessions(set_name, chosen, sessions, seed)


def synthetic_meta(set_name: str, sessions: int, seed: int) -> TraceMeta:
    """File metadata for a trace made by `synthesize` with these arguments."""
    chosen = _chosen(set_name, sessions)
    return TraceMeta(
        source=f"synthesized to match Table 2 of the DualPath paper, set {set_name}",
        licence="Apache-2.0",
        derived={
            "append_tokens": "lognormal, declining along the trajectory; first prompt at turn 0",
            "generate_tokens": "lognormal, correlated between turns",
            "gap_ns": "0, as in the paper",
        },
        absent=("keep_tokens", "arrival_ns", "parent_trajectory", "parent_turn", "hash_shared", "hash_new"),
        generator="dualpath.trace.synth",
        seed=seed,
        arguments={"set": set_name, "sessions": str(sessions), "max_len": str(chosen.max_len)},
    )


def _chosen(set_name: str, sessions: int) -> TraceSet:
    if set_name not in SETS:
        raise TraceError(f"set {set_name!r} is unknown; the sets are {', '.join(SETS)}")
    if sessions < 1:
        raise TraceError(f"sessions is {sessions}; it must be at least 1")
    return SETS[set_name]


def _sessions(set_name: str, chosen: TraceSet, sessions: int, seed: int) -> Iterator[Trajectory]:
    slopes: Floats | None = None
    for first in range(0, sessions, BLOCK):
        noise = draw_noise(BLOCK, (seed % (1 << 64), first // BLOCK))
        factors, slopes = calibrate(chosen, noise, slopes)
        drawn = draw(adjusted(POPULATION, factors), noise)
        turns = num_turns(drawn, chosen.max_len)
        for index in range(min(BLOCK, sessions - first)):
            name = f"agent-{set_name}-{first + index:06d}"
            yield _trajectory(name, drawn, index, int(turns[index]))


def _trajectory(name: str, drawn: Draw, index: int, turns: int) -> Trajectory:
    appends = drawn.appends[index, :turns].tolist()
    generates = drawn.generates[index, :turns].tolist()
    return Trajectory(name, tuple(map(Turn, appends, generates)))


def adjusted(population: Population, factors: dict[str, float]) -> Population:
    return replace(population, **{name: getattr(population, name) * f for name, f in factors.items()})


def calibrate(chosen: TraceSet, noise: Noise, slopes: Floats | None = None) -> tuple[dict[str, float], Floats]:
    """Factors on KNOBS with which the block of `noise` meets the set's columns, and the slopes used.

    `slopes`, from another block, saves measuring them again.
    """
    start = best = np.log([chosen.factors.get(name, 1.0) for name in KNOBS])
    best_errors = _errors(chosen, noise, best)
    damping = 0.0
    for _ in range(_MAX_STEPS):
        if np.abs(best_errors).max() < _CLOSE_ENOUGH:
            break
        fresh = slopes is None
        if slopes is None:
            slopes = _slopes(chosen, noise, best, best_errors)
        logs = np.round(best + _step(slopes, best_errors, best - start, damping), 6)
        errors = _errors(chosen, noise, logs)
        gain = float(errors @ errors) / float(best_errors @ best_errors)
        if gain < 1:
            best, best_errors = logs, errors
        if gain > 0.5:
            slopes = None
            damping = 3 * damping + 1.0 if fresh else damping
        else:
            damping /= 10
    if slopes is None:
        slopes = _slopes(chosen, noise, best, best_errors)
    return dict(zip(KNOBS, np.exp(best).tolist(), strict=True)), slopes


def _step(slopes: Floats, errors: Floats, away: Floats, damping: float) -> Floats:
    """Gauss-Newton step that cancels the errors and pulls the knobs back to where they started."""
    pull = np.diag((_PULL / np.array(list(KNOBS.values()))) ** 2)
    square = slopes.T @ slopes + (1 + damping) * pull
    step = np.linalg.solve(square, slopes.T @ errors + pull @ away)
    return np.asarray(-step.clip(-0.2, 0.2), dtype=np.float64)


def _errors(chosen: TraceSet, noise: Noise, logs: Floats) -> Floats:
    factors = dict(zip(KNOBS, np.exp(logs).tolist(), strict=True))
    drawn = draw(adjusted(POPULATION, factors), noise)
    errors: Floats = np.log(np.array(columns(drawn, chosen.max_len)) / np.array(chosen.paper))
    return errors


def _slopes(chosen: TraceSet, noise: Noise, logs: Floats, errors: Floats) -> Floats:
    """[num_columns, num_knobs]"""
    nudged = (_errors(chosen, noise, logs + _NUDGE * row) for row in np.eye(len(logs)))
    return np.stack([(moved - errors) / _NUDGE for moved in nudged], axis=1)
