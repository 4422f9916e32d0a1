"""How near a run came to the limits that shape the scheduler's choices: one that is never reached decides nothing."""

from __future__ import annotations

import math

import polars as pl

from dualpath.results.links import window_utilisation
from dualpath.results.run import Run
from dualpath.results.steady import steady_window


def limits_reached(run: Run) -> dict[str, float]:
    """Largest value in the run over its limit, by name; nan where the run does not say. Limits: paper 5.2, A.4."""
    constants = run.raw["cluster"].get("constants", {})
    alpha = constants.get("alpha_s", math.nan) * constants.get("read_tokens_per_s", math.nan)
    beta = constants.get("beta_s", math.nan) * constants.get("prefill_tokens_per_s", math.nan)
    queues = pl.max_horizontal("prefill_queue_tokens", "decode_queue_tokens").max()
    longest_queue = run.turns.select(queues).collect().item() or 0
    return {
        "read queue of a node, of alpha": longest_queue / alpha,
        "tokens of a PE, of beta": _most_tokens(run) / beta,
        "use of a compute NIC in the steady window": _busiest_cnic(run),
    }


def num_cut(run: Run) -> int:
    """Prompts' chunks that did not complete their prompt."""
    cuts = pl.col("commands").str.count_matches('"last":false', literal=True).sum()
    return int(run.decisions.select(cuts).collect().item())


def _most_tokens(run: Run) -> int:
    """Most prompt tokens that one PE was assigned and had not sent on, at any moment (tok_e)."""
    prompt = pl.col("hit_tokens").cast(pl.Int64) + pl.col("miss_tokens")
    taken = run.turns.select("prefill_engine", t="scheduled_ns", tokens=prompt)
    given_back = run.turns.select("prefill_engine", t="prefill_end_ns", tokens=-prompt)
    carried = pl.concat([given_back, taken]).sort("t", maintain_order=True)
    most = carried.select(pl.col("tokens").cum_sum().over("prefill_engine").max()).collect().item()
    return int(most or 0)


def _busiest_cnic(run: Run) -> float:
    window = steady_window(run)
    used = window_utilisation(run, "cnic", window) if window else None
    busiest = None if used is None else used.select(pl.col("utilisation").max()).item()
    return math.nan if busiest is None else float(busiest)
