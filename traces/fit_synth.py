"""Fit the population of the synthesized traces to Table 2 of the paper: python traces/fit_synth.py [TRAJECTORIES]

Prints the population, to be copied into dualpath/trace/synth.py, and each set's factors for the population that
stands there: copy the one, run again, copy the others. About a minute.
Levenberg-Marquardt under fixed randomness; every residual is an error over the tolerance given beside it.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, replace

import numpy as np
from dualpath.trace.population import (
    MAX_TURNS,
    Draw,
    Floats,
    Noise,
    Population,
    columns,
    draw,
    draw_noise,
    num_turns,
)
from dualpath.trace.synth import POPULATION, SETS, calibrate

COLUMN_TOLERANCE = 0.02  # the rest is left to each set's factors
TURN_SPREAD = (0.65, 0.04)  # coefficient of variation of turn counts (Fig 15)
TURN_MAXIMUM = (3.75, 0.3)  # 99.8th percentile of turn counts, in means (Fig 15)
OUTPUT_SHARE = (0.86, 0.04)  # output per trajectory over turns x mean output (Fig 11)

# Where a set's factors start, if not at 1: the fewest agents of Fig 7's Oracle wait for the longest trajectories, which
# with the population's own spread came out 15 to 22 % too short at 32K.
START = {"32k": {"append_spread": 1.75}}

# Parameter -> (expected value, standard deviation of its logarithm). The others are set, not fitted.
EXPECTED = {
    "first_prompt_mean": (4000.0, 0.3),
    "first_prompt_spread": (0.35, 0.5),
    "append_mean": (420.0, 1.0),
    "append_spread": (0.4, 0.4),
    "append_decline_turns": (40.0, 0.5),
    "append_decline": (1.0, 0.3),
    "generate_mean": (140.0, 1.0),
    "generate_spread": (0.5, 0.4),
    "generate_growth": (0.1, 1.0),
    "rate_correlation": (0.5, 0.3),
    "early_end_share": (0.14, 0.15),
    "early_end_mean": (4500.0, 0.4),
    "late_end_mean": (400_000.0, 0.7),
}


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    noise = draw_noise(count, (99,))
    centre = np.log([value for value, _ in EXPECTED.values()])
    best = centre
    errors = _errors(best, centre, noise)
    damping = 1.0
    for _ in range(30):
        slopes = np.stack(
            [(_errors(best + 0.05 * row, centre, noise) - errors) / 0.05 for row in np.eye(len(best))], axis=1
        )
        square = slopes.T @ slopes
        gain = 0.0
        while damping < 1e6 and gain <= 0:
            damped = square + damping * np.diag(np.diag(square))
            tried = best - np.linalg.solve(damped, slopes.T @ errors).clip(-0.4, 0.4)
            new = _errors(tried, centre, noise)
            change = float(errors @ errors - new @ new)
            gain = change if np.isfinite(change) else 0.0  # parameters beyond reason give nan
            damping *= 0.25 if gain > 0 else 4
        if gain <= 0:
            break
        best, errors = tried, new
        print(f"sum of squares {errors @ errors:.2f}", flush=True)
        if gain < 0.05:
            break
    population = _population(best)
    for name, value in asdict(population).items():
        print(f"{name}={value:.4g}")
    _print_fit(population, noise)
    for name, chosen in SETS.items():
        factors, _ = calibrate(replace(chosen, factors=START.get(name, {})), draw_noise(count, (7,)))
        print(name, {knob: round(factor, 3) for knob, factor in factors.items()})


def _population(logs: Floats) -> Population:
    values = dict(zip(EXPECTED, np.exp(logs).tolist(), strict=True))
    values["rate_correlation"] = min(0.95, values["rate_correlation"])
    return replace(POPULATION, **values)


def _errors(logs: Floats, centre: Floats, noise: Noise) -> Floats:
    drawn = draw(_population(logs), noise)
    errors: list[float] = []
    for chosen in SETS.values():
        found = np.array(columns(drawn, chosen.max_len))
        errors += (np.log(found / np.array(chosen.paper)) / COLUMN_TOLERANCE).tolist()
        for value, (wanted, tolerance) in zip(
            _shape(drawn, chosen.max_len), (TURN_SPREAD, TURN_MAXIMUM, OUTPUT_SHARE), strict=True
        ):
            errors.append((value - wanted) / tolerance)
    widths = np.array([width for _, width in EXPECTED.values()])
    return np.array([*errors, *((logs - centre) / widths)])


def _shape(drawn: Draw, max_len: int) -> tuple[float, float, float]:
    turns = num_turns(drawn, max_len)
    kept = np.arange(MAX_TURNS) < turns[:, None]
    outputs = np.where(kept, drawn.generates, 0).sum(axis=1)
    mean = turns.mean()
    share = outputs.mean() / (mean * (outputs / turns).mean())
    return float(turns.std() / mean), float(np.quantile(turns, 0.998) / mean), float(share)


def _print_fit(population: Population, noise: Noise) -> None:
    drawn = draw(population, noise)
    for name, chosen in SETS.items():
        found = columns(drawn, chosen.max_len)
        off = [f"{column} {a / b - 1:+.1%}" for column, a, b in zip(found._fields, found, chosen.paper, strict=True)]
        shape = [f"{value:.2f}" for value in _shape(drawn, chosen.max_len)]
        print(name, "before factors:", ", ".join(off), "| turn spread, maximum, output share:", *shape)


if __name__ == "__main__":
    main()
