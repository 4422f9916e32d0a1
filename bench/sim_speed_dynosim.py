"""One offline replay by DynoSim (PyPI ai-dynamo), in this process and by an interpreter that has it.

Release 1.6.1 has no `python -m dynamo.replay`; its Python API is the way in. `aisimulate`, which that release demands,
is a placeholder on PyPI and is not needed for this: the replay is compiled into ai-dynamo-runtime.

sim_speed.py starts a fresh process for each; the last line of stdout is one JSON object. Example:

    bench/out/side-sims/bin/python bench/sim_speed_dynosim.py trace.jsonl --prefill 2 --decode 4
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from importlib import metadata

os.environ.setdefault("DYN_LOG", "error")  # it reads this when it is imported; a line per request costs time

from dynamo.replay import run_trace_replay

BLOCK_TOKENS = 512  # of a Mooncake file


def engine(role: str, blocks: int) -> dict[str, object]:
    """Timing by its built-in polynomial; no bandwidth given, so that KV moves at once."""
    return {"engine": {"worker_type": role, "block_size": BLOCK_TOKENS, "num_gpu_blocks": blocks}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", help="JSON lines in Mooncake's format, with session_id and delay where turns follow")
    parser.add_argument("--prefill", type=int, required=True, help="workers")
    parser.add_argument("--decode", type=int, required=True, help="workers")
    parser.add_argument("--router", choices=("round_robin", "kv_router"), default="round_robin")
    parser.add_argument("--blocks", type=int, default=1 << 17, help="KV blocks of 512 tokens per worker")
    options = parser.parse_args()
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    summary = run_trace_replay(
        [options.trace],
        prefill_engine_args=engine("prefill", options.blocks),
        decode_engine_args=engine("decode", options.blocks),
        num_prefill_workers=options.prefill,
        num_decode_workers=options.decode,
        router_mode=options.router,
        trace_block_size=BLOCK_TOKENS,
    ).summary
    result = {
        "seconds": time.perf_counter() - wall_s,
        "cpu_s": time.process_time() - cpu_s,
        "loop_s": summary["wall_time_ms"] / 1e3,  # without reading the trace, by its own clock
        "turns": summary["completed_requests"],
        "turns_planned": summary["num_requests"],
        "jct_s": summary["duration_ms"] / 1e3,
        "hit_rate": summary["prefix_cache_reused_ratio"],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "version": metadata.version("ai-dynamo"),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
