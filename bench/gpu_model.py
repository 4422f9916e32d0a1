"""What a model costs on a GPU, beside what the GPU can do at most: prefill, decode, loading layer by layer, and the
same requests under `transformers`. Prints raw rows as JSON; needs a GPU, torch with Triton.

    PYTHONPATH=harness python bench/gpu_model.py [CLUSTER] > rows.jsonl     default: bench/clusters/h200-1p1d.toml

    matmul        a product of large matrices in the model's data type: what arithmetic reaches here
    copy          device memory to device memory, bytes read and written: what its bandwidth is here
    prefill       a forward pass of the prefill engine, whose KV stays where it is
    layerwise     the same pass with its KV loaded from a PE buffer and sent to a DE buffer, layer by layer, on links
                  that nothing paces; and the moves alone
    decode        a step of the decode engine's CUDA graph
    ours, transformers   64 requests of 1,024 + 128 tokens: all prompts, then all steps

Everything is timed from outside, until the GPU is done, and repeated; weights and tokens are random.
"""

from __future__ import annotations

import json
import os
import queue
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dualpath.cluster_file import load_cluster
from dualpath.core.cluster import Cluster
from dualpath.engine.block_copy import warm_up
from dualpath.engine.data_path import DataPath, link_rates
from dualpath.engine.geometry import buffer_bytes
from dualpath.engine.graphed_decode import GraphedDecode
from dualpath.engine.messages import BatchComputed, BatchSent, ChunkWork, PrefillBatch
from dualpath.engine.meter import Meter
from dualpath.engine.models.checkpoint import load_model
from dualpath.engine.models.model import Model
from dualpath.engine.pacer import Pacer
from dualpath.engine.prefill_engine import PrefillEngine
from dualpath.engine.shared_buffer import SharedBuffer
from dualpath.engine.transport import SharedMemoryTransport

ROOT = Path(__file__).resolve().parents[1]
PASSES = ((4096, 0), (4096, 4096), (2048, 14336), (429, 32256), (429, 8192))  # (new, cached) tokens
STEPS = ((1, 8192), (8, 8192), (32, 8192), (64, 8192), (64, 1024), (128, 1024))  # (requests, tokens of each context)
REPEATS = 7
REQUESTS, PROMPT, GENERATED = 64, 1024, 128
Row = dict[str, Any]


def ceilings(dtype: torch.dtype) -> Iterator[Row]:
    size = 8192
    a, b = (torch.randn(size, size, device="cuda", dtype=dtype) for _ in range(2))
    yield {"what": "matmul", "flop": 2 * size**3, "ns": timed(lambda: a @ b)}
    source = torch.randn(1 << 30, device="cuda")
    target = torch.empty_like(source)
    yield {"what": "copy", "bytes": 2 * source.nbytes, "ns": timed(lambda: target.copy_(source))}


def timed(work: Callable[..., object], *arguments: object) -> list[int]:
    """ns, each until the GPU was done."""
    found = []
    for _ in range(REPEATS + 2):
        torch.cuda.synchronize()
        start_ns = time.perf_counter_ns()
        work(*arguments)
        torch.cuda.synchronize()
        found.append(time.perf_counter_ns() - start_ns)
    return found[2:]


class Prefill:
    """A prefill engine on links that nothing paces."""

    def __init__(self, cluster: Cluster, model: Model, moves_kv: bool) -> None:
        self._cluster = cluster
        self._told: queue.SimpleQueue[BatchComputed | BatchSent] = queue.SimpleQueue()
        transport = SharedMemoryTransport()
        for engine in range(2):
            fd = os.memfd_create("buffer")
            os.ftruncate(fd, buffer_bytes(cluster, engine))
            buffer = SharedBuffer(fd, buffer_bytes(cluster, engine))
            buffer.pin()
            transport.register(f"buffer/{engine}", buffer.tensor)
        path = DataPath(cluster, Pacer.create(link_rates(cluster)), Meter())
        self.engine = PrefillEngine(
            cluster,
            0,
            model,
            transport,
            path,
            self._told.put,
            layerwise=True,
            moves_kv=moves_kv,
            deterministic=False,
            verify=False,
        )
        self.engine.start(self._spawn)

    def _spawn(self, name: str, body: Callable[[], None]) -> None:
        def run() -> None:
            with torch.inference_mode():
                body()

        threading.Thread(target=run, name=name, daemon=True).start()

    def run(self, chunks: list[tuple[int, int]]) -> None:
        """(new, cached) tokens of each; until all has been sent."""
        work, at = [], 0
        for number, (new, cached) in enumerate(chunks):
            slots = list(range(at, at + self._cluster.blocks(new + cached)))
            at += len(slots)
            ids = np.random.default_rng(number).integers(0, self._cluster.model.vocab, new, dtype=np.int32)
            hits = slots[: self._cluster.blocks(cached)]
            work.append(ChunkWork(number, cached, ids.tobytes(), True, cached, cached, hits, 1, slots, []))
        self.engine.submit(PrefillBatch(0, work))
        while not isinstance(self._told.get(), BatchSent):
            pass


def prefill_rows(cluster: Cluster, model: Model) -> Iterator[Row]:
    computing, moving = Prefill(cluster, model, False), Prefill(cluster, model, True)
    layer = moving.engine._layer
    for new, cached in PASSES:
        chunk = [(new, cached)]
        shape = {"new": new, "cached": cached, "kv_bytes": (new + cached) * cluster.model.kv_bytes}
        yield {
            "what": "prefill",
            **shape,
            "flop": flop(cluster, new, cached),
            "ns": timed(computing.run, chunk),
        }
        yield {"what": "layerwise", **shape, "ns": timed(moving.run, chunk)}
        moving.engine._layer = lambda batch, forward, at: None  # type: ignore[method-assign]
        yield {"what": "moves", **shape, "ns": timed(moving.run, chunk)}
        moving.engine._layer = layer  # type: ignore[method-assign]


def flop(cluster: Cluster, new: int, cached: int) -> float:
    """Of the matrix products of a pass, attention's among them (two per multiply-add)."""
    shape = cluster.model
    width = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    weights = shape.hidden * (width + shape.heads * shape.head_dim + 3 * shape.mlp)
    pairs = new * cached + new * (new + 1) / 2
    return 2.0 * shape.layers * (weights * new + 2 * shape.heads * shape.head_dim * pairs)


def decode_rows(cluster: Cluster, model: Model) -> Iterator[Row]:
    blocks = max(requests * (cluster.blocks(context) + 1) for requests, context in STEPS)
    memory = torch.empty(
        cluster.model.layers,
        blocks + 1,
        cluster.block_tokens,
        cluster.model.kv_elements,
        dtype=model.dtype,
        device="cuda",
    ).normal_()
    decode = GraphedDecode(model, memory)
    weights = sum(each.nbytes for each in weight_tensors(model))
    for requests, context in STEPS:
        pages = scattered(requests, cluster.blocks(context), blocks)
        ids, positions = [7] * requests, [context - 1] * requests
        num_bytes = weights + requests * context * cluster.model.kv_bytes
        yield {
            "what": "decode",
            "requests": requests,
            "context": context,
            "bytes": num_bytes,
            "ns": timed(decode.step, ids, positions, pages),
        }
    own = scattered(REQUESTS, cluster.blocks(PROMPT + GENERATED), blocks)

    def generate() -> None:
        for position in range(PROMPT, PROMPT + GENERATED - 1):
            decode.step([7] * REQUESTS, [position] * REQUESTS, own)

    yield {"what": "ours, steps", "requests": REQUESTS, "ns": timed(generate)}


def scattered(requests: int, blocks: int, of: int) -> list[list[int]]:
    """Pages that lie apart, in order."""
    drawn = random.Random(requests * blocks).sample(range(of), requests * blocks)
    return [sorted(drawn[at : at + blocks]) for at in range(0, len(drawn), blocks)]


def weight_tensors(model: Model) -> list[torch.Tensor]:
    """Those that a step reads whole: all but the embedding."""
    weights = model.weights
    found = [weights.final_norm, weights.head]
    for layer in weights.layers:
        found += [part for name in layer.__slots__ if (part := getattr(layer, name)) is not None]
    return found


def transformers_rows(cluster: Cluster) -> Iterator[Row]:
    """Its continuous batching, on as many random weights."""
    import transformers  # type: ignore[import-untyped, unused-ignore]

    shape = cluster.model
    config = transformers.Qwen2Config(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        eos_token_id=None,
        pad_token_id=0,
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        theirs = transformers.Qwen2ForCausalLM(config).eval()
    torch.set_default_dtype(torch.float32)
    generator = np.random.default_rng(0)
    prompts = generator.integers(0, shape.vocab, (REQUESTS, PROMPT)).tolist()
    chosen = transformers.GenerationConfig(
        max_new_tokens=GENERATED, do_sample=False, eos_token_id=-1, pad_token_id=0, use_cache=True
    )
    for _ in range(2):  # the first one warms up
        start_ns = time.perf_counter_ns()
        answers = theirs.generate_batch(inputs=prompts, generation_config=chosen)
        torch.cuda.synchronize()
        ns = time.perf_counter_ns() - start_ns
    tokens = sum(len(answer.generated_tokens) for answer in answers.values())
    yield {"what": "transformers", "version": transformers.__version__, "tokens": tokens, "ns": [ns]}


def rows(path: Path) -> Iterator[Row]:
    cluster = load_cluster(path).cluster
    cluster = replace(cluster, snic_bytes_per_s=None, cnic_bytes_per_s=None)
    properties = torch.cuda.get_device_properties(0)
    yield {
        "what": "setting",
        "gpu": properties.name,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "model": cluster.model.name,
    }
    warm_up()
    start_ns = time.perf_counter_ns()
    model = load_model(cluster.model, 0, "", "cuda")
    torch.cuda.synchronize()
    yield {"what": "weights", "bytes": torch.cuda.memory_allocated(), "ns": [time.perf_counter_ns() - start_ns]}
    yield from ceilings(model.dtype)
    yield from prefill_rows(cluster, model)
    prefill = Prefill(cluster, model, False)
    batch = [(PROMPT, 0)] * (REQUESTS // 4)
    yield {
        "what": "ours, prompts",
        "requests": REQUESTS,
        "ns": timed(lambda: [prefill.run(batch) for _ in range(4)]),
    }
    with torch.inference_mode():
        yield from decode_rows(cluster, model)
    del model
    torch.cuda.empty_cache()
    yield from transformers_rows(cluster)


def main() -> int:
    if not torch.cuda.is_available():
        print(f"error: {Path(__file__).name} needs a GPU", file=sys.stderr)
        return 3
    sys.setswitchinterval(0.0005)  # as in an engine's process (engine/serve.py)
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "bench" / "clusters" / "h200-1p1d.toml"
    for row in rows(path):
        print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
