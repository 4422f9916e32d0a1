"""Claims hold within their range, and nothing that was not measured keeps one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dualpath.results.claims import Claim, never_early_rarely_late


@pytest.mark.parametrize(
    ("errors_ms", "is_kept"),
    [
        ([0.0, 5.0], True),
        ([0.1] * 99 + [900.0], True),  # one of a hundred
        ([0.1] * 98 + [900.0] * 2, False),
        ([-0.001, 0.1], False),  # measured shorter than it was
        ([5.001], False),
        ([0.1, math.nan], False),  # one turn was not recorded
        ([0.1, math.inf], False),  # one failed
    ],
)
def test_a_latency_is_never_early_and_rarely_late(errors_ms: list[float], is_kept: bool) -> None:
    claim = never_early_rarely_late("ttft", "TTFT", "50", np.array(errors_ms), 5.0, ("run",))
    assert claim.is_kept == is_kept
    check = claim.as_check()
    assert check.note.startswith("known: 50")
    assert (check.passed, check.bound, check.rows) == (is_kept, "0 to 5", ("run",))


def test_a_claim_without_upper_limit_says_so() -> None:
    claim = Claim("sustained", "turns/s", "", 200.0, 200.0, 200.0, 100.0, math.inf, "turns/s", ())
    assert (claim.is_kept, claim.bound) == (True, ">= 100")
    assert claim.as_check().note == "", "nothing is known of it, and it is one number"
    assert not Claim("sustained", "turns/s", "", 0.0, 0.0, 0.0, 100.0, math.inf, "turns/s", ()).is_kept
