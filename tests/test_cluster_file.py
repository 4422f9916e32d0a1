"""Cluster files: what is read, and how each mistake is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from dualpath.cluster_file import load_cluster, parse_rate, parse_size
from dualpath.core.errors import ClusterError
from hypothesis import given
from hypothesis import strategies as st

CLUSTERS = Path(__file__).resolve().parents[1] / "bench" / "clusters"


@pytest.mark.parametrize("path", sorted(CLUSTERS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_cluster_can_be_read_and_is_named_after_its_shape(path: Path) -> None:
    cluster = load_cluster(path).cluster
    assert cluster.name == path.stem
    assert path.stem.endswith(f"{cluster.prefill.nodes}p{cluster.decode.nodes}d")
    if path.stem.startswith("native"):
        assert (cluster.cnic_bytes_per_s, cluster.snic_bytes_per_s) == (None, None)
        return
    assert cluster.cnic_bytes_per_s is not None
    assert cluster.snic_bytes_per_s is not None
    if path.stem.startswith("gate"):  # made so that storage alone is waited for
        return
    # A node's engines have eight times its storage NIC's bandwidth between them, or a little more.
    engines = cluster.prefill.engines_per_node
    assert 0.9 <= 8 * cluster.snic_bytes_per_s / (engines * cluster.cnic_bytes_per_s) <= 1


def test_what_a_file_leaves_out_has_the_papers_values(cluster_file: Callable[..., Path]) -> None:
    path = cluster_file(snic="40MB/s")
    text = path.read_text().replace("read_tokens_per_s = 10000\n", "").replace("quota_ms = 1\n", "")
    path.write_text(text.replace("block_tokens = 16\n", ""))
    found = load_cluster(path)
    constants = found.cluster.constants
    assert (constants.alpha_s, constants.beta_s, constants.quota_s, constants.z_factor) == (3.0, 5.0, 0.3, 1.05)
    assert constants.read_tokens_per_s == 40e6 / found.cluster.model.kv_bytes
    assert found.cluster.block_tokens == 64
    assert found.durable == "process"


BAD = [
    ("model = ", "modell = ", "unknown field `modell`"),
    ("[links]\n", "[links]\ncolour = 1\n", r"unknown field `colour` - at `\$.links`"),
    ("[links]\n", "[unknown]\nx = 1\n[links]\n", "unknown field `unknown`"),
    ('"tiny-gqa"', '"gpt-9"', r"model = 'gpt-9' is neither a known model \(cpu-gqa"),
    ("[prefill]\nnodes = 1", "[prefill]\nnodes = 0", r"\[prefill\] nodes = 0 is outside 1\.\.4096"),
    ("[decode]\nnodes = 1", "[decode]\nnodes = -3", r"\[decode\] nodes = -3 is outside 1\.\.4096"),
    ("[decode]\nnodes = 1", "[decode]\nnodes = 1.5", r"Expected `int`, got `float` - at `\$.decode.nodes`"),
    ("[decode]\nnodes = 1", "[decode]\nnodes = true", r"Expected `int`, got `bool` - at `\$.decode.nodes`"),
    ('snic = "native"', "snic = 40", r"Expected `str`, got `int` - at `\$.links.snic`"),
    ('snic = "native"', 'snic = "40"', r"\[links\] snic = '40' is not a rate; .* such as \"200MB/s\""),
    ('snic = "native"', 'snic = "40MB"', r"\[links\] snic = '40MB' is not a rate"),
    ('snic = "native"', 'snic = "-4MB/s"', r"\[links\] snic = '-4MB/s' is not a rate"),
    ('snic = "native"', 'snic = "0MB/s"', r"must be at least 1 B/s"),
    ('snic = "native"', 'snic = "1e400GB/s"', r"is not a rate"),
    ('snic = "native"', f'snic = "{"9" * 400}GB/s"', r"is not a rate|below 1 EiB/s"),
    ('"8MiB"', '"8"', r"decode_buffer = '8' is not a size; .* such as \"64MiB\""),
    ('"8MiB"', '"0MiB"', r"decode_buffer = '0MiB' must be above 0"),
    ('"8MiB"', '"8000000TB"', r"decode_buffer = '8000000TB' must be above 0 and below 1 EiB"),
    ("read_tokens_per_s = 10000\n", "", "read_tokens_per_s is missing"),
    ("quota_ms = 1", "quota_ms = 0", r"\[scheduler\] quota_ms = 0.0 must be above 0"),
    ("quota_ms = 1", "quota_ms = nan", r"\[scheduler\] quota_ms = nan must be above 0"),
    ("quota_ms = 1", "quota_ms = inf", r"\[scheduler\] quota_ms = inf must be above 0"),
    ("quota_ms = 1", "prefill_in_flight = 0", r"\[scheduler\] prefill_in_flight = 0 is outside 1\.\.64"),
    ("quota_ms = 1", "prefill_in_flight = 1000", r"\[scheduler\] prefill_in_flight = 1000 is outside 1\.\.64"),
    ("block_tokens = 16", 'kv_dtype = "fp4"', r"Invalid enum value 'fp4' - at `\$.kv_dtype`"),
    ("block_tokens = 16", "block_tokens = 0", r"block_tokens = 0 is outside 1\.\.4096"),
    ("quota_ms = 1", "quota_ms = 1\n[storage]\nread_in_flight = 0", r"read_in_flight = 0 is outside 1\.\.64"),
    ("quota_ms = 1", 'quota_ms = 1\n[storage]\ndurable = "maybe"', r"Invalid enum value 'maybe' - at `\$.storage"),
    ("model = ", "model = = ", "tiny.toml: "),
]


@pytest.mark.parametrize(("old", "new", "message"), BAD, ids=[new.replace("\n", " ")[:40] for _, new, _ in BAD])
def test_a_mistake_is_named(cluster_file: Callable[..., Path], old: str, new: str, message: str) -> None:
    path = cluster_file()
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ClusterError, match=message) as error:
        load_cluster(path)
    assert str(error.value).startswith(f"{path}: ")


def test_kv_dtype_replaces_a_known_models(cluster_file: Callable[..., Path]) -> None:
    path = cluster_file(model="ds-27b")
    assert load_cluster(path).cluster.model.kv_layer_bytes == 724
    path.write_text('kv_dtype = "bf16"\n' + path.read_text())
    model = load_cluster(path).cluster.model
    assert (model.kv_dtype, model.kv_layer_bytes) == ("bf16", (512 + 64 + 64) * 2)


def test_kv_dtype_of_a_checkpoint_is_its_own(cluster_file: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "config.json").write_text("{}")
    path = cluster_file(model="some")
    path.write_text('kv_dtype = "bf16"\n' + path.read_text())
    with pytest.raises(ClusterError, match="kv_dtype = 'bf16': a checkpoint's KV has the data type of its weights"):
        load_cluster(path)


@pytest.mark.parametrize(("model", "layer_bytes"), [("ds27b", 724), ("ds660b", 788), ("qwen32b", 4096)])
def test_the_papers_clusters_have_the_papers_kv(model: str, layer_bytes: int) -> None:
    found = {load_cluster(path).cluster.model.kv_layer_bytes for path in CLUSTERS.glob(f"paper-{model}-*.toml")}
    assert found == {layer_bytes}


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="no such cluster file"):
        load_cluster(tmp_path / "none.toml")
    with pytest.raises(ClusterError, match="cannot be read"):
        load_cluster(tmp_path)
    (tmp_path / "binary.toml").write_bytes(bytes(range(256)))
    with pytest.raises(ClusterError, match=r"binary\.toml"):
        load_cluster(tmp_path / "binary.toml")


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [("200MB/s", 200e6), ("1.5 GiB/s", 1.5 * 2**30), ("400Gbit/s", 50e9), ("1B/s", 1), ("native", None)],
)
def test_rates(text: str, bytes_per_s: float | None) -> None:
    assert parse_rate(text, "here") == bytes_per_s


@given(st.integers(1, 10**9), st.sampled_from([("kB", 10**3), ("KiB", 2**10), ("MB", 10**6), ("B", 1)]))
def test_sizes(count: int, unit: tuple[str, int]) -> None:
    assert parse_size(f"{count}{unit[0]}", "here") == count * unit[1]
