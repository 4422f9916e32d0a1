"""Bytes and busy time spread over buckets add up exactly."""

from __future__ import annotations

from dualpath.core.hops import Charge
from dualpath.engine.meter import Meter, spread
from hypothesis import given
from hypothesis import strategies as st


@given(
    num_bytes=st.integers(0, 10**9),
    start=st.integers(-(10**6), 10**9),
    length=st.integers(0, 10**9),
    width=st.integers(1, 10**8),
)
def test_spread_conserves_bytes_and_time(num_bytes: int, start: int, length: int, width: int) -> None:
    width = max(width, length // 50 + 1)
    shares = spread(num_bytes, start, start + length, width)
    assert sum(share for _, share, _ in shares) == num_bytes
    assert sum(ns for _, _, ns in shares) == length
    for bucket, share, ns in shares:
        assert share >= 0
        assert 0 <= ns <= width
        assert bucket * width < start + max(length, 1)


def test_bytes_fall_into_the_buckets_in_proportion() -> None:
    assert spread(100, 50, 250, 100) == [(0, 25, 50), (1, 50, 100), (2, 25, 50)]


def test_rows_add_up_charges_of_one_kind_and_leave_unpaced_time_out() -> None:
    meter = Meter(bucket_ns=100)
    paced = Charge("snic", 0, None, "read", "prefill")
    native = Charge("dram", 0, None, "write", "prefill")
    for _ in range(2):
        meter.add(paced, "kv", 10, 0, 60, paced=True)
        meter.add(native, "kv", 10, 0, 60, paced=False)
    rows = {row["resource"]: (row["bytes"], row["busy_ns"]) for row in meter.rows()}
    assert rows == {"snic": (20, 120), "dram": (20, 0)}
