"""Clusters: numbering, sizes, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
from dualpath.core.cluster import Cluster, Nodes
from dualpath.core.errors import ClusterError
from dualpath.core.model_shape import ModelShape
from small_cluster import BLOCK_BYTES, LAYER_BLOCK_BYTES, LAYERS, small_cluster


def test_prefill_engines_and_nodes_come_first() -> None:
    cluster = small_cluster(prefill=(2, 3), decode=(3, 2))
    assert (cluster.num_nodes, cluster.num_prefill, cluster.num_decode, cluster.num_engines) == (5, 6, 6, 12)
    assert [cluster.node_of(engine) for engine in range(12)] == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4]
    assert [cluster.role_of(engine) for engine in range(12)] == ["prefill"] * 6 + ["decode"] * 6


def test_a_partly_filled_block_counts_whole() -> None:
    cluster = small_cluster()
    assert [cluster.blocks(tokens) for tokens in (0, 1, 4, 5, 8)] == [0, 1, 1, 2, 2]
    assert cluster.block_bytes == BLOCK_BYTES == LAYERS * LAYER_BLOCK_BYTES  # a Full Block is its Layer Blocks


@pytest.mark.parametrize(("attention", "elements"), [("gqa", 2 * 4 * 64), ("mla", 480 + 32)])
def test_kv_bytes_follow_from_the_model(attention: Literal["gqa", "mla"], elements: int) -> None:
    shape = ModelShape(
        "test",
        attention,
        layers=6,
        hidden=1,
        heads=8,
        head_dim=64,
        mlp=1,
        vocab=2,
        kv_heads=4,
        latent_dim=480,
        rope_dim=32,
        kv_dtype="bf16",
    )
    assert shape.kv_layer_bytes == elements * 2
    assert shape.kv_bytes == 6 * elements * 2


@pytest.mark.parametrize(
    ("role", "nodes", "message"),
    [
        ("prefill", Nodes(0, 1), r"\[prefill\] nodes = 0 is outside 1..4096"),
        ("prefill", Nodes(1, -1), r"\[prefill\] engines_per_node = -1 is"),
        ("decode", Nodes(4097, 1), r"\[decode\] nodes = 4097 is"),
        ("decode", Nodes(1, 0), r"\[decode\] engines_per_node = 0 is"),
    ],
)
def test_a_cluster_without_engines_is_refused(role: str, nodes: Nodes, message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        replace(small_cluster(), **{role: nodes})


@pytest.mark.parametrize("pass_engines", [1, 2, 3, 6])
def test_pass_groups_are_equal_parts_of_the_prefill_engines(pass_engines: int) -> None:
    assert small_cluster(prefill=(2, 3), pass_engines=pass_engines).pass_engines == pass_engines


@pytest.mark.parametrize(
    ("pass_engines", "message"),
    [
        (4, r"\[prefill\] pass_engines = 4 does not divide the 6 prefill engines"),
        (5, r"\[prefill\] pass_engines = 5 does not divide the 6"),
        (0, r"\[prefill\] pass_engines = 0 is outside 1..6"),
        (7, r"\[prefill\] pass_engines = 7 is outside 1..6"),
    ],
)
def test_other_pass_groups_are_refused(pass_engines: int, message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        small_cluster(prefill=(2, 3), pass_engines=pass_engines)


PROMPT, TOTAL = 41, 50  # 11 and 13 blocks


def room(**blocks: int) -> Cluster:
    sizes = {"prefill_buffer": 11, "decode_buffer": 11, "prefill_hbm": 11, "decode_hbm": 13}
    return small_cluster(**{**sizes, **blocks})


def test_memories_that_just_hold_the_largest_request_are_enough() -> None:
    for layerwise in (False, True):
        room().check_fits(PROMPT, TOTAL, layerwise)


@pytest.mark.parametrize(
    ("key", "blocks"), [("prefill_buffer", 10), ("decode_buffer", 10), ("prefill_hbm", 10), ("decode_hbm", 12)]
)
def test_a_memory_too_small_is_named_with_value_need_and_knob(key: str, blocks: int) -> None:
    with pytest.raises(ClusterError) as refused:
        room(**{key: blocks}).check_fits(PROMPT, TOTAL, layerwise=False)
    text = str(refused.value)
    for part in ("small", f"[memory] {key} =", "41 prompt, 50 total tokens of test", f"raise {key}", "--max-len"):
        assert part in text


def test_the_message_gives_mebibytes() -> None:
    cluster = replace(room(), memory=replace(room().memory, decode_hbm_bytes=3 * 2**19))
    with pytest.raises(ClusterError, match=r"decode_hbm = 1\.5 MiB .* takes 2\.0 MiB"):
        cluster.check_fits(1, 2 * 2**20 // BLOCK_BYTES * 4, layerwise=True)


def test_layerwise_needs_device_memory_for_two_layers_only() -> None:
    two_layers = 2 * 11 * LAYER_BLOCK_BYTES
    cluster = replace(room(), memory=replace(room().memory, prefill_hbm_bytes=two_layers))
    cluster.check_fits(PROMPT, TOTAL, layerwise=True)
    with pytest.raises(ClusterError, match="prefill_hbm"):
        cluster.check_fits(PROMPT, TOTAL, layerwise=False)
    one_byte_less = replace(cluster, memory=replace(cluster.memory, prefill_hbm_bytes=two_layers - 1))
    with pytest.raises(ClusterError, match="prefill_hbm"):
        one_byte_less.check_fits(PROMPT, TOTAL, layerwise=True)


def test_constants_in_tokens() -> None:
    constants = small_cluster(alpha_tokens=12, beta_tokens=34).constants
    assert (constants.alpha_tokens, constants.beta_tokens) == (12, 34)
    assert replace(constants, alpha_s=2.5, beta_s=0.5).alpha_tokens == 30
