"""A cluster as the scheduler sees it: engines in nodes, rates of their links, sizes of their memories.

Nodes are numbered through, prefill nodes first, then decode nodes; engines likewise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dualpath.core.errors import ClusterError
from dualpath.core.model_shape import ModelShape

Role = Literal["prefill", "decode"]


@dataclass(frozen=True, slots=True)
class Nodes:
    """Nodes of one role. A node's engines share its storage NIC and form one scheduling group."""

    nodes: int
    engines_per_node: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes per engine."""

    prefill_buffer_bytes: int  # PE buffer: DRAM that receives Full Blocks read on the prefill side
    decode_buffer_bytes: int  # DE buffer: DRAM that collects a request's whole prompt KV
    prefill_hbm_bytes: int  # device memory for KV during prefill
    decode_hbm_bytes: int  # device memory for KV during decode


@dataclass(frozen=True, slots=True)
class Constants:
    """Scheduler constants (paper A.4). Times are what the paper gives; the rates turn them into tokens."""

    alpha_s: float = 3.0  # a node's disk queue is long beyond what its SNIC reads in this time
    beta_s: float = 5.0  # a PE is overloaded beyond what it computes in this time
    quota_s: float = 0.3  # attention time one forward batch may take
    report_s: float = 0.0  # time between reports of the read queues; 0: they are always known
    z_factor: float = 1.05  # balance threshold of DE phase 2
    read_tokens_per_s: float = 0.0  # per SNIC, profiled beforehand
    prefill_tokens_per_s: float = 0.0  # per PE, profiled beforehand
    attention_ns_per_pair: float = 0.0  # attention time of a forward pass per (new token, attended token) pair
    attention_ns_per_context: float = 0.0  # and per token of the context, cached or new, whatever is new

    @property
    def alpha_tokens(self) -> int:
        return int(self.alpha_s * self.read_tokens_per_s)

    @property
    def beta_tokens(self) -> int:
        return int(self.beta_s * self.prefill_tokens_per_s)


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a run runs on. Link rates are bytes per second; None means native, i.e. not paced."""

    name: str
    model: ModelShape
    prefill: Nodes
    decode: Nodes
    memory: Memory
    snic_bytes_per_s: float | None
    cnic_bytes_per_s: float | None
    constants: Constants
    block_tokens: int = 64
    read_in_flight: int = 4  # storage reads one engine keeps outstanding
    prefill_in_flight: int = 1  # batches a PE is given before it has computed them; 2 loads one behind another
    pass_engines: int = 1  # PEs whose forward passes run together
    layerwise_layers: int = (
        2  # that a PE holds in a layerwise pass; with 3 one can load and one leave while one computes
    )
    model_bytes_per_token: float = 0.0  # model traffic of a forward pass per new token, each direction

    def __post_init__(self) -> None:
        counts = (
            ("[prefill] nodes", self.prefill.nodes, 4096),
            ("[prefill] engines_per_node", self.prefill.engines_per_node, 4096),
            ("[decode] nodes", self.decode.nodes, 4096),
            ("[decode] engines_per_node", self.decode.engines_per_node, 4096),
            ("block_tokens", self.block_tokens, 4096),
            ("[storage] read_in_flight", self.read_in_flight, 64),
            ("[scheduler] prefill_in_flight", self.prefill_in_flight, 64),
            ("[prefill] pass_engines", self.pass_engines, self.num_prefill),
            ("[prefill] layerwise_layers", self.layerwise_layers, 64),
        )
        for key, value, most in counts:
            if not 1 <= value <= most:
                raise ClusterError(f"{key} = {value} is outside 1..{most}")
        for key, rate in (("[links] snic", self.snic_bytes_per_s), ("[links] cnic", self.cnic_bytes_per_s)):
            if rate is not None and not rate > 0:
                raise ClusterError(f"{key} = {rate} bytes per second must be above 0, or native for no limit")
        if not 0 <= self.model_bytes_per_token < 1e9:
            raise ClusterError(
                f"[links] model_bytes_per_token = {self.model_bytes_per_token} must be at least 0 and below 1e9"
            )
        if self.pass_engines > 1 and self.prefill_in_flight > 1:
            raise ClusterError(
                f"[scheduler] prefill_in_flight = {self.prefill_in_flight} with [prefill] pass_engines = "
                f"{self.pass_engines}: engines whose passes run together are given one at a time; use 1"
            )
        if self.num_prefill % self.pass_engines:
            raise ClusterError(
                f"[prefill] pass_engines = {self.pass_engines} does not divide the {self.num_prefill} prefill engines"
            )

    @property
    def num_nodes(self) -> int:
        return self.prefill.nodes + self.decode.nodes

    @property
    def num_prefill(self) -> int:
        return self.prefill.nodes * self.prefill.engines_per_node

    @property
    def num_decode(self) -> int:
        return self.decode.nodes * self.decode.engines_per_node

    @property
    def num_engines(self) -> int:
        return self.num_prefill + self.num_decode

    @property
    def block_bytes(self) -> int:
        """Bytes of a Full Block."""
        return self.block_tokens * self.model.kv_bytes

    def role_of(self, engine: int) -> Role:
        return "prefill" if engine < self.num_prefill else "decode"

    def node_of(self, engine: int) -> int:
        if engine < self.num_prefill:
            return engine // self.prefill.engines_per_node
        return self.prefill.nodes + (engine - self.num_prefill) // self.decode.engines_per_node

    def layers_held(self, layerwise: bool) -> int:
        """Layers of a forward batch's KV that a PE holds at a time."""
        return min(self.layerwise_layers, self.model.layers) if layerwise else self.model.layers

    def blocks(self, tokens: int) -> int:
        """Full Blocks that hold so many tokens, the last one perhaps partly."""
        return -(-tokens // self.block_tokens)

    def check_fits(self, prompt_tokens: int, total_tokens: int, layerwise: bool) -> None:
        """Raise ClusterError where the largest request of a trace can never be served.

        prompt_tokens: largest prompt; total_tokens: largest prompt + output.
        """
        layers = self.layers_held(layerwise)
        layer_block_bytes = self.block_tokens * self.model.kv_layer_bytes
        memory = self.memory
        needs = (
            ("prefill_buffer", memory.prefill_buffer_bytes, self.blocks(prompt_tokens) * self.block_bytes),
            ("decode_buffer", memory.decode_buffer_bytes, self.blocks(prompt_tokens) * self.block_bytes),
            (
                "prefill_hbm",
                memory.prefill_hbm_bytes,
                layers * self.blocks(prompt_tokens) * layer_block_bytes,
            ),
            ("decode_hbm", memory.decode_hbm_bytes, self.blocks(total_tokens) * self.block_bytes),
        )
        for key, has_bytes, need_bytes in needs:
            if has_bytes < need_bytes:
                raise ClusterError(
                    f"{self.name}: [memory] {key} = {has_bytes / 2**20:.1f} MiB cannot hold the trace's largest "
                    f"request ({prompt_tokens} prompt, {total_tokens} total tokens of {self.model.name}): it takes "
                    f"{need_bytes / 2**20:.1f} MiB; raise {key}, or shrink the trace with --scale or --max-len"
                )
