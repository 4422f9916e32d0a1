"""The population that synthesized trajectories are drawn from: its parameters, and the draw itself.

One population serves all three of the paper's sets; a set is that population truncated at its maximum length.
`traces/fit_synth.py` fits the numbers below; traces/SCHEMA.md says to what, and how well they fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MAX_TURNS = 1024  # a trajectory that has not reached its maximum length by then ends
MIN_TURNS = 2  # nobody ends on their own before; the maximum length may still cut earlier
_MAX_DEVIATION = 3.0  # per-turn lognormals are cut here, in standard deviations


@dataclass(frozen=True, slots=True)
class Population:
    """Lengths in tokens; `_spread` is the sigma of a lognormal, `_mean` its mean."""

    first_prompt_mean: float
    first_prompt_spread: float
    append_mean: float  # of turn 1, before the decline
    append_spread: float  # between trajectories
    append_turn_spread: float  # between the turns of one trajectory
    append_decline_turns: float  # appends shrink as (1 + turn / this) ** -append_decline
    append_decline: float
    generate_mean: float  # of turn 0
    generate_spread: float
    generate_turn_spread: float
    generate_growth: float  # outputs grow as (1 + turn / append_decline_turns) ** this
    rate_correlation: float  # of the trajectories' append and generate levels (log)
    generate_autocorrelation: float  # of log outputs from turn to turn
    append_generate_correlation: float  # of log append and log output of one turn
    early_end_share: float  # trajectories that end on their own early
    early_end_mean: float  # tokens they add to their first prompt, exponential
    late_end_mean: float  # the same of all others: mostly far beyond the maximum length


class Draw(NamedTuple):
    """Token counts of a block of trajectories, before truncation."""

    appends: npt.NDArray[np.int64]  # [num_trajectories, MAX_TURNS]; column 0 is the first prompt
    generates: npt.NDArray[np.int64]  # [num_trajectories, MAX_TURNS]
    ends: npt.NDArray[np.int64]  # [num_trajectories]: natural length in tokens


class Noise(NamedTuple):
    """The randomness of a block, kept apart so that parameters can vary under the same randomness."""

    traits: Floats  # [num_trajectories, 4], normal: first prompt, append, generate; uniform: end
    append: Floats  # [num_trajectories, MAX_TURNS], normal
    generate: Floats  # [num_trajectories, MAX_TURNS], normal, independent of `append` and of its neighbours


def draw_noise(num_trajectories: int, seed: tuple[int, ...]) -> Noise:
    """Traits are spread evenly (a shifted additive recurrence), so a block, and any first part of it, resembles
    its population."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    steps = _golden_steps(4)
    index = np.arange(num_trajectories)
    uniform = (rng.random(4) + index[:, None] * steps) % 1.0
    normal = np.vectorize(NormalDist().inv_cdf)(np.clip(uniform[:, :3], 1e-3, 1 - 1e-3))
    shape = (num_trajectories, MAX_TURNS)
    append = np.clip(rng.standard_normal(shape), -_MAX_DEVIATION, _MAX_DEVIATION)
    generate = np.clip(rng.standard_normal(shape), -_MAX_DEVIATION, _MAX_DEVIATION)
    return Noise(np.hstack([normal, uniform[:, 3:]]), append, generate)


def _golden_steps(dimensions: int) -> Floats:
    """Roberts' additive recurrence: powers of the inverse of the root of x ** (d + 1) = x + 1."""
    root = 2.0
    for _ in range(60):
        root = (1.0 + root) ** (1.0 / (dimensions + 1))
    return np.array([root ** -(i + 1) for i in range(dimensions)]) % 1.0


def draw(population: Population, noise: Noise) -> Draw:
    p = population
    z_first, z_append, z_generate, u_end = noise.traits.T
    both = p.rate_correlation
    z_generate = both * z_append + np.sqrt(1 - both**2) * z_generate
    turn = np.arange(MAX_TURNS) / p.append_decline_turns
    append_level = p.append_mean * _lognormal(z_append, p.append_spread)
    generate_level = p.generate_mean * _lognormal(z_generate, p.generate_spread)
    appends = append_level[:, None] * (1 + turn) ** -p.append_decline
    appends *= _lognormal(noise.append, p.append_turn_spread)
    appends[:, 0] = p.first_prompt_mean * _lognormal(z_first, p.first_prompt_spread)
    generates = generate_level[:, None] * (1 + turn) ** p.generate_growth
    generates *= _lognormal(_linked(p, noise), p.generate_turn_spread)
    return Draw(_counts(appends), _counts(generates), _counts(appends[:, 0] + _natural_length(p, u_end)))


def _lognormal(z: Floats, spread: float) -> Floats:
    """Of mean 1."""
    return np.exp(spread * z - spread * spread / 2)


def _natural_length(p: Population, u: Floats) -> Floats:
    """Quantiles of the mixture of early and late ends, so that each length varies smoothly with the parameters."""
    low, high = np.zeros_like(u), np.full_like(u, 60 * p.late_end_mean)
    for _ in range(60):
        middle = (low + high) / 2
        survival = p.early_end_share * np.exp(-middle / p.early_end_mean)
        survival += (1 - p.early_end_share) * np.exp(-middle / p.late_end_mean)
        low, high = np.where(survival > 1 - u, middle, low), np.where(survival > 1 - u, high, middle)
    return low


def _linked(p: Population, noise: Noise) -> Floats:
    """Standard normals that follow the turn's append and the previous turn's output."""
    carry, with_append = p.generate_autocorrelation, p.append_generate_correlation
    own = np.sqrt(1 - carry**2 - with_append**2) if carry**2 + with_append**2 < 1 else 0.0
    linked = np.empty_like(noise.generate)
    linked[:, 0] = noise.generate[:, 0]
    for turn in range(1, linked.shape[1]):
        linked[:, turn] = (
            carry * linked[:, turn - 1] + with_append * noise.append[:, turn] + own * noise.generate[:, turn]
        )
    return linked


def _counts(values: Floats) -> npt.NDArray[np.int64]:
    counts: npt.NDArray[np.int64] = np.rint(values.clip(1, 1e7)).astype(np.int64)
    return counts


class Columns(NamedTuple):
    """The paper's Table 2 for a block: means over trajectories of each trajectory's own mean."""

    turns: float
    append: float  # the first prompt counts as an append
    generate: float
    total: float  # prompt + output of the last turn
    context: float  # prompt


def num_turns(drawn: Draw, max_len: int) -> npt.NDArray[np.int64]:
    """Turns that remain of each trajectory: dropped from the first whose prompt + output exceeds `max_len`."""
    sizes = np.cumsum(drawn.appends + drawn.generates, axis=1)
    limits = np.minimum(max_len, np.maximum(drawn.ends, sizes[:, MIN_TURNS - 1]))
    turns: npt.NDArray[np.int64] = (sizes <= limits[:, None]).sum(axis=1)
    return turns


def columns(drawn: Draw, max_len: int) -> Columns:
    turns = num_turns(drawn, max_len)
    kept = np.arange(MAX_TURNS) < turns[:, None]
    appends = np.where(kept, drawn.appends, 0)
    generates = np.where(kept, drawn.generates, 0)
    sizes = np.cumsum(appends + generates, axis=1)
    contexts = np.where(kept, sizes - generates, 0)
    per_turn = np.maximum(1, turns)
    return Columns(
        turns=float(turns.mean()),
        append=float((appends.sum(axis=1) / per_turn).mean()),
        generate=float((generates.sum(axis=1) / per_turn).mean()),
        total=float(sizes[:, -1].mean()),
        context=float((contexts.sum(axis=1) / per_turn).mean()),
    )
