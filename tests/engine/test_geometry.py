"""Offsets of tokens in slots, against a table filled by hand."""

from __future__ import annotations

from dualpath.engine.geometry import BlockGeometry
from hypothesis import given
from hypothesis import strategies as st

_GEOMETRY = BlockGeometry(layers=3, block_tokens=4, entry_bytes=8)


def test_a_full_block_is_its_layer_blocks_in_a_row_and_slots_start_on_pages() -> None:
    assert _GEOMETRY.block_bytes == 3 * 4 * 8
    assert _GEOMETRY.stride_bytes == 4096
    assert [_GEOMETRY.slot_offset(2, layer) for layer in range(3)] == [8192, 8192 + 32, 8192 + 64]


@given(
    slots=st.permutations(range(6)),
    layer=st.integers(0, 2),
    first=st.integers(0, 23),
    num=st.integers(1, 24),
)
def test_pieces_cover_the_tokens_in_order_and_never_cross_a_block(
    slots: list[int], layer: int, first: int, num: int
) -> None:
    num = min(num, 24 - first)
    pieces = _GEOMETRY.pieces(slots, layer, first, num, local_offset=100)
    where = {}  # local byte -> remote byte
    for local, remote, num_bytes in pieces.tolist():
        for byte in range(num_bytes):
            where[local + byte] = remote + byte
    expected = {}
    for index, token in enumerate(range(first, first + num)):
        remote = slots[token // 4] * 4096 + layer * 32 + token % 4 * 8
        for byte in range(8):
            expected[100 + index * 8 + byte] = remote + byte
    assert where == expected
    assert len(pieces) == (first + num - 1) // 4 - first // 4 + 1
