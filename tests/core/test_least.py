from __future__ import annotations

from dualpath.core.least import new_least, set_value
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 11), st.integers(-3, 3)), max_size=60))
def test_the_least_is_the_lowest_number_of_those_with_the_least_value(num: int, changes: list[tuple[int, int]]) -> None:
    least, values = new_least(num, 0), [0] * num
    for subject, value in changes:
        subject %= num
        set_value(least, subject, value)
        values[subject] = value
        assert least.values.tolist() == values
        assert least.heap[0] == values.index(min(values))
        assert sorted(least.heap.tolist()) == list(range(num))
