"""What the constants of a profile are measured from: one function for each kind of work, on engines that wait for it.

Everything is measured in rounds that go through a whole design, each in another order, after one that warms up. Of the
rounds the lower quartile counts: what else a machine does makes work longer, never shorter.
"""

from __future__ import annotations

import itertools
import random
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from dualpath.core.cluster import Role
from dualpath.core.commands import Prefill
from dualpath.core.events import PrefillComputed, PrefillSent, TurnEnded
from dualpath.fits import Fit, fit, pass_counts, step_counts
from dualpath.rig import Rig

READ_BLOCKS = (1, 2, 4, 8, 11)  # hit blocks of requests that are alone
CLIENT_BLOCKS = 64
COLD_REQUESTS = (1, 8, 24)  # of the first batches of an engine

_ROUNDS = 7
_BATCHES = 48
_BATCH_REQUESTS = (1, 1, 1, 2, 3, 4, 6, 12, 24)  # drawn from
_MOST_NEW = 128  # tokens of a request
_STEP_REQUESTS = (1, 2, 4, 8, 16, 24)
_STEPS = 12
_HOLDER_CONTEXT, _HOLDER_STEPS = 8, 50
_SHARED_REQUESTS, _SHARED_STEPS = 8, 200

Chunks = list[tuple[int, int]]  # (cached, new) tokens of each request of a batch


def draw_batches(longest: int, block_tokens: int) -> list[Chunks]:
    """Forward batches like those of agents: long contexts of which little is new."""
    rng = random.Random("batches")
    most_new = min(_MOST_NEW, longest // 2)
    cached, new = range(0, longest - most_new + 1, block_tokens), range(8, most_new + 1)
    return [
        [(rng.choice(cached), rng.choice(new)) for _ in range(rng.choice(_BATCH_REQUESTS))] for _ in range(_BATCHES)
    ]


def first_passes(rig: Rig, longest: int) -> list[tuple[Chunks, int]]:
    """The first batches of a new engine, each larger than the one before, and what they took (ns)."""
    batches = [[(0, longest // 3)] * num for num in COLD_REQUESTS]
    return [(chunks, _pass_ns(rig, chunks)) for chunks in batches]


def cold_ns_per_token(first: list[tuple[Chunks, int]], pass_fit: Fit) -> float:
    """What first passes take beyond what they would later, per new token of the largest."""
    extra_ns = sum(took_ns - pass_fit.time(pass_counts(chunks)) for chunks, took_ns in first)
    return max(0.0, extra_ns) / max(sum(new for _, new in chunks) for chunks, _ in first)


def passes(rig: Rig, batches: list[Chunks]) -> tuple[Fit, float]:
    """Cost of forward passes (ns; fits.pass_counts), and prompt tokens per second in them, hits included."""
    times, _ = _work(rig, batches, _rounds(len(batches), _ROUNDS + 1), range(1), range(0), 0)
    typical = [_quartile(times[number]) for number in range(len(batches))]
    prompt_tokens = sum(cached + new for chunks in batches for cached, new in chunks)
    return fit([pass_counts(chunks) for chunks in batches], typical), prompt_tokens / sum(typical) * 1e9


def steps(rig: Rig, longest: int) -> Fit:
    """Cost of decode steps (ns; fits.step_counts)."""
    contexts = (longest // 8, longest // 2, longest - _STEPS)
    design = [(requests, context) for requests in _STEP_REQUESTS for context in contexts]
    times: defaultdict[int, list[float]] = defaultdict(list)
    counts: dict[int, tuple[float, ...]] = {}
    for number in _rounds(len(design), _ROUNDS + 1):
        counts[number], step_ns = _step(rig, *design[number])
        times[number].append(step_ns)
    typical = [_quartile(times[number]) for number in range(len(design))]
    return fit([counts[number] for number in range(len(design))], typical)


def shared_dilation(rig: Rig, batches: list[Chunks], context: int) -> float:
    """How many times longer work takes where all engines of the rig compute than where one does."""
    prefill_engines = range(rig.cluster.num_prefill)
    decode_engines = range(rig.cluster.num_prefill, rig.cluster.num_engines)
    order, no_engines = _rounds(len(batches), 4), range(0)
    pass_alone, _ = _work(rig, batches, order, prefill_engines[:1], no_engines, context)
    _, step_alone = _work(rig, batches, order, no_engines, decode_engines[:1], context)
    pass_shared, step_shared = _work(rig, batches, order, prefill_engines, decode_engines, context)
    alone_ns = sum(len(times) * _quartile(pass_alone[number]) for number, times in pass_shared.items())
    shared_ns = sum(map(sum, pass_shared.values()))
    return (shared_ns / alone_ns + statistics.mean(step_shared) / statistics.mean(step_alone)) / 2


@dataclass(frozen=True, slots=True)
class Alone:
    """What a request waits for that has all links and engines to itself."""

    request_ns: float  # messages and queues from when it is released to when its prefill begins
    handoff_ns: float  # likewise from its KV in the DE buffer to its decode
    read_ns_per_block: float  # beyond what the storage NIC's rate says
    rates: dict[str, float]  # bytes per second that each movement got


def alone(rig: Rig, step_fit: Fit) -> Alone:
    """The way of a request over paced links, hop by hop. The rig's arm loads all layers before it computes, so that a
    load's time can be told from the computing."""
    cluster = rig.cluster
    points: defaultdict[str, defaultdict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    heard_ns: list[int] = []
    sides: tuple[Role, ...] = ("prefill", "decode")
    design = [(side, blocks) for side in sides for blocks in READ_BLOCKS]
    for number in _rounds(len(design), _ROUNDS + 1):
        side, blocks = design[number]
        cached, num_bytes = blocks * cluster.block_tokens, blocks * cluster.block_bytes
        request = rig.admit(cached, 1, 3, (0, cluster.num_prefill), side)
        said_ns, read, at_ns = rig.read(request)
        heard_ns.append(at_ns - read.t_ns)
        points[f"{side} read"][num_bytes].append(read.t_ns - said_ns)
        said_ns, [computed], [sent] = rig.prefill([rig.batch([request], [cached])])
        points[f"{side} load"][num_bytes].append(computed.start_ns - said_ns)
        if side == "prefill":
            points["forward"][num_bytes].append(sent.t_ns - computed.t_ns)
        [ended] = rig.decode([request])
        step_ns = int(step_fit.time(step_counts(1, cached + 1)))
        points["start"][num_bytes].append((ended.second_token_ns or 0) - sent.t_ns - step_ns)
    lines = {name: _line(measured) for name, measured in points.items()}
    read_ns, read_ns_per_byte = (statistics.mean(lines[f"{side} read"][of] for side in sides) for of in range(2))
    load_ns = statistics.mean(lines[f"{side} load"][0] for side in sides)
    stated = 1e9 / cluster.snic_bytes_per_s if cluster.snic_bytes_per_s else 0.0
    return Alone(
        # the coordinator hears that the turn before has ended, and that the read is done
        request_ns=max(0.0, 2 * _quartile(heard_ns) + read_ns + load_ns),
        handoff_ns=max(0.0, lines["start"][0]),
        read_ns_per_block=max(0.0, (read_ns_per_byte - stated) * cluster.block_bytes),
        rates={name: 1e9 / slope for name, (_, slope) in lines.items() if slope > 0},
    )


def client(rig: Rig) -> float:
    """Bytes per second that one engine's storage client reads where no link limits it."""
    cached, num_bytes = CLIENT_BLOCKS * rig.cluster.block_tokens, CLIENT_BLOCKS * rig.cluster.block_bytes
    times: list[int] = []
    for _ in range(_ROUNDS + 1):
        request = rig.admit(cached, 1, 1, (0, rig.cluster.num_prefill), "prefill")
        said_ns, read, _ = rig.read(request)
        times.append(read.t_ns - said_ns)
        rig.prefill([rig.batch([request], [cached])])
        rig.decode([request])
    return num_bytes / _quartile(times) * 1e9


def _pass_ns(rig: Rig, chunks: Chunks) -> int:
    requests = [rig.admit(cached, new, 1, (0, rig.cluster.num_prefill)) for cached, new in chunks]
    _, [computed], _ = rig.prefill([_batch(rig, requests, chunks)])
    rig.decode(requests)
    return computed.t_ns - computed.start_ns


def _step(rig: Rig, num: int, context: int) -> tuple[tuple[float, ...], float]:
    """What is in a decode step, and what it takes (ns)."""
    holders, requests = _apart(rig, rig.cluster.num_prefill, num, context, _STEPS, _HOLDER_STEPS)
    rig.start_decode(requests)
    ended = {event.request: event for event, _ in rig.wait_for(TurnEnded, len(holders) + num)}
    # they may have joined at different steps, one behind the other
    joined_ns = sorted({ended[request].second_token_ns or 0 for request in requests})
    num_steps = _STEPS - 2 - (len(joined_ns) - 1)
    end_ns = min(ended[request].end_ns for request in requests)
    assert end_ns <= min(ended[request].end_ns for request in holders), "holders outlast what they hold apart"
    tokens = num * (context + _STEPS / 2) + len(holders) * (_HOLDER_CONTEXT + _HOLDER_STEPS / 2)
    return step_counts(num + len(holders), tokens), (end_ns - joined_ns[-1]) / num_steps


def _apart(
    rig: Rig, engine: int, num: int, context: int, num_steps: int, holder_steps: int
) -> tuple[list[int], list[int]]:
    """Requests about to decode, whose pages lie apart as they do after a while: in gaps too small for one of them,
    between others that hold a few pages each. Returns (those others, which decode already; the requests)."""
    pair, blocks = (0, engine), rig.cluster.blocks(context + num_steps)
    gap_tokens = max(1, blocks - 1) * rig.cluster.block_tokens - 1
    num_gaps = -(-num * blocks // max(1, blocks - 1))
    gaps = [rig.admit(gap_tokens - 1, 1, 1, pair) for _ in range(num_gaps)]
    holders = [rig.admit(_HOLDER_CONTEXT - 1, 1, holder_steps, pair) for _ in range(num_gaps)]
    requests = [rig.admit(context - 1, 1, num_steps, pair) for _ in range(num)]
    cached = [gap_tokens - 1] * num_gaps + [_HOLDER_CONTEXT - 1] * num_gaps + [context - 1] * num
    rig.prefill([rig.batch([each], [has]) for each, has in zip([*gaps, *holders, *requests], cached, strict=True)])
    rig.start_decode([request for both in zip(gaps, holders, strict=True) for request in both])
    rig.wait_for(TurnEnded, num_gaps)
    return holders, requests


def _work(
    rig: Rig,
    batches: list[Chunks],
    order: list[int],
    prefill_engines: range,
    decode_engines: range,
    context: int,
) -> tuple[dict[int, list[int]], list[float]]:
    """Let engines compute at once: what each batch took (ns), by its number, and each request's decode step. Prefill
    engines go through the batches in order, with one ready behind another as in a run; beside decode engines, for as
    long as those have all their requests, whose contexts are of so many tokens."""
    decoding, ending = list[int](), set[int]()
    for engine in decode_engines:
        holders, requests = _apart(rig, engine, _SHARED_REQUESTS, context, _SHARED_STEPS, 3 * _SHARED_STEPS // 2)
        ending.update(holders)
        decoding += requests
    rig.start_decode(decoding)
    todo = {engine: itertools.cycle(order) if decoding else iter(order) for engine in prefill_engines}
    under_way: dict[int, tuple[int, list[int]]] = {}  # batch -> its number, requests
    times: defaultdict[int, list[int]] = defaultdict(list)
    step_ns: list[float] = []
    left = set(decoding)

    def go_on(engine: int) -> None:
        number = next(todo[engine], None)
        if number is not None:
            requests = [rig.admit(*chunk, 1, (engine, rig.cluster.num_prefill)) for chunk in batches[number]]
            batch = _batch(rig, requests, batches[number])
            under_way[batch.batch] = number, requests
            rig.backend.execute([batch])

    for engine in (*prefill_engines, *prefill_engines):
        go_on(engine)
    while left or under_way or ending:
        for event, _ in rig.wait():
            all_busy = len(left) == len(decoding)
            match event:
                case PrefillComputed(engine=engine, batch=batch) if all_busy:
                    times[under_way[batch][0]].append(event.t_ns - event.start_ns)
                    go_on(engine)
                case PrefillSent(batch=batch):
                    _, requests = under_way.pop(batch)
                    ending.update(requests)
                    rig.start_decode(requests)
                case TurnEnded(request=request) if request in left:
                    left.discard(request)
                    step_ns.append((event.end_ns - (event.second_token_ns or 0)) / (_SHARED_STEPS - 2))
                case TurnEnded(request=request):
                    ending.discard(request)
                case _:
                    pass
    return times, step_ns


def _line(points: dict[int, list[int]]) -> tuple[float, float]:
    """(ns at no byte, ns per byte), by the times at each number of bytes."""
    slope, base = statistics.linear_regression(list(points), [_quartile(times) for times in points.values()])
    return base, slope


def _quartile(times: Sequence[float]) -> float:
    """The lower one; the first of them warmed up."""
    return sorted(times[1:])[(len(times) - 1) // 4]


def _batch(rig: Rig, requests: list[int], chunks: Chunks) -> Prefill:
    return rig.batch(requests, [cached for cached, _ in chunks])


def _rounds(num: int, rounds: int) -> list[int]:
    """Numbers below num, each once a round."""
    rng = random.Random("rounds")
    return [number for _ in range(rounds) for number in rng.sample(range(num), num)]
