"""The hop table against the paper: each labelled hop of section 2.2, the closed forms of section 3, and predictions."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from dualpath.core.arms import ARMS
from dualpath.core.cluster import Cluster
from dualpath.core.commands import Admit, Assigned, Chunk, Command, Decode, Prefill, Read
from dualpath.core.events import PrefillComputed, PrefillSent, ReadDone, Request, TurnDue
from dualpath.core.flight import Flight
from dualpath.core.hops import HOPS, BytePrediction, Charge, Route, Stage, charges, command_stages
from dualpath.core.scheduler import Scheduler
from small_cluster import BLOCK_TOKENS, MODEL, small_cluster

# Section 2.2, in the host's directions: what a step costs, (role, resource, direction), and in which blocks. Where
# the paper's "medium" column names the fabric only, the hop costs nothing at an end that another step does not have.
PE_PATH = {
    1: [("prefill", "snic", "read", "full")],
    2: [("prefill", "dram", "write", "full")],
    3: [("prefill", "dram", "read", "layer"), ("prefill", "cnic", "read", "layer")],
    4: [("prefill", "cnic", "write", "layer")],
    5: [("prefill", "cnic", "read", "layer")],
    6: [],  # CNIC -> CNIC: the fabric; the DE CNIC's write is step 7
    7: [("decode", "cnic", "write", "layer"), ("decode", "dram", "write", "layer")],
    8: [("decode", "dram", "read", "full"), ("decode", "cnic", "read", "full")],
    9: [("decode", "cnic", "write", "full")],
}
DE_PATH = {
    1: [("decode", "snic", "read", "full")],
    2: [("decode", "dram", "write", "full")],
    3: [("decode", "dram", "read", "layer"), ("decode", "cnic", "read", "layer")],
    4: [],  # CNIC -> CNIC: the fabric; the PE CNIC's write is step 5
    5: [("prefill", "cnic", "write", "layer")],
    6: [("decode", "dram", "read", "full"), ("decode", "cnic", "read", "full")],
    7: [("decode", "cnic", "write", "full")],
}
PE_STAGES: dict[Stage, list[int]] = {
    "read-prefill": [1, 2],
    "load-prefill": [3, 4],
    "forward": [5, 6, 7],
    "start": [8, 9],
}
DE_STAGES: dict[Stage, list[int]] = {"read-decode": [1, 2], "load-decode": [3, 4, 5], "start": [6, 7]}


@pytest.mark.parametrize(("path", "stages"), [(PE_PATH, PE_STAGES), (DE_PATH, DE_STAGES)], ids=["PE", "DE"])
def test_stages_are_the_papers_steps(
    path: dict[int, list[tuple[str, str, str, str]]], stages: dict[Stage, list[int]]
) -> None:
    assert sorted(step for steps in stages.values() for step in steps) == sorted(path), "each step in one stage"
    for stage, steps in stages.items():
        hops = Counter((hop.role, hop.resource, hop.direction, hop.block) for hop in HOPS[stage])
        assert hops == Counter(hop for step in steps for hop in path[step]), stage


@pytest.mark.parametrize(("name", "path"), [("PE", PE_PATH), ("DE", DE_PATH)])
def test_labels_name_the_steps(name: str, path: dict[int, list[tuple[str, str, str, str]]]) -> None:
    """A hop's labels, read as '<path> <step>[, <step>]', lead to the step that costs it."""
    labelled: set[int] = set()
    for hops in HOPS.values():
        for hop in hops:
            current = ""
            for part in filter(None, hop.labels.split(", ")):
                *new, number = part.split()
                current = new[0] if new else current
                if current == name:
                    labelled.add(int(number))
                    cost = (hop.role, hop.resource, hop.direction, hop.block)
                    assert cost in path[int(number)] or not path[int(number)]
    assert labelled == set(path)


def test_the_decode_path_never_touches_prefill_dram_or_snic() -> None:
    for stage in DE_STAGES:
        assert not [hop for hop in HOPS[stage] if hop.role == "prefill" and hop.resource != "cnic"]


# --- section 3 --------------------------------------------------------------------------------------------------------


def hit_load(cluster: Cluster, t_p: Fraction, t_c: Fraction) -> Counter[tuple[str, int | None, int, str]]:
    """Load of each counter when every PE-DE pair carries t_p of hit KV by the PE path and t_c by the DE path."""
    by_route: dict[Route, tuple[list[Stage], Fraction]] = {
        "prefill": ([*PE_STAGES], t_p),
        "decode": ([*DE_STAGES], t_c),
    }
    load: Counter[tuple[str, int | None, int, str]] = Counter()
    for prefill_engine in range(cluster.num_prefill):
        for decode_engine in range(cluster.num_prefill, cluster.num_engines):
            for route, (stages, traffic) in by_route.items():
                for stage in stages:
                    for charge in charges(cluster, stage, route, prefill_engine, decode_engine):
                        load[charge.resource, charge.engine, charge.node, charge.direction] += traffic
    return load


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("d", [1, 2, 4])
@pytest.mark.parametrize("g", [1, 2, 8])
def test_closed_forms_follow_from_the_table(p: int, d: int, g: int) -> None:
    """Every row of section 3, in units of B s, exactly and for each single engine and node."""
    cluster = small_cluster(prefill=(p, g), decode=(d, g))
    t_p, t_c = Fraction(1, d * g**2), Fraction(1, p * g**2)
    load = hit_load(cluster, t_p, t_c)
    ratio = Fraction(p, d)
    for engine in range(cluster.num_engines):
        node = cluster.node_of(engine)
        read, write = (load["cnic", engine, node, direction] for direction in ("read", "write"))
        if cluster.role_of(engine) == "prefill":
            assert read == Fraction(2, g)
            assert write == (1 + 1 / ratio) / g
        else:
            assert read == (ratio + 2) / g
            assert write == (2 * ratio + 1) / g
    for node in range(cluster.num_nodes):
        dram = load["dram", None, node, "read"] + load["dram", None, node, "write"]  # half duplex
        assert dram == (2 if node < p else 3 + 2 * ratio)
        assert load["snic", None, node, "read"] == 1  # storage bandwidth fully used, by every node
        assert load["snic", None, node, "write"] == 0


def test_the_papers_own_example_is_bottleneck_free_within_its_range() -> None:
    """g = 8, s = 1, M / (B s) = 10: 1/7 <= P/D <= 7/2, both ends tight."""

    def free(p: int, d: int) -> bool:
        cluster = small_cluster(prefill=(p, 8), decode=(d, 8))
        load = hit_load(cluster, Fraction(1, d * 64), Fraction(1, p * 64))
        cnic = max(load for (resource, *_), load in load.items() if resource == "cnic")
        dram: Counter[int] = Counter()
        for (resource, _, node, _), each in load.items():
            dram[node] += each if resource == "dram" else 0
        return cnic <= 1 and max(dram.values()) <= 10

    assert free(1, 7)
    assert not free(1, 8)
    assert free(7, 2)
    assert not free(4, 1)


# --- predictions ------------------------------------------------------------------------------------------------------

KV = MODEL.kv_bytes
PE, DE = 0, 1


def predicted(cluster: Cluster, arm: str, steps: list[tuple[Command, Flight]]) -> Counter[Charge]:
    prediction = BytePrediction(cluster, ARMS[arm])
    for command, flight in steps:
        prediction.add([command], {flight.request.id: flight})
    return prediction.bytes


def tokens(counted: Counter[Charge]) -> dict[tuple[str, int, str, str], int]:
    """(resource, node, direction, route) -> tokens' KV."""
    assert all(number % KV == 0 for number in counted.values())
    return {(c.resource, c.node, c.direction, c.route): number // KV for c, number in counted.items()}


def loaded(request: Request, prefill_blocks: int) -> Flight:
    return Flight(request, PE, DE, prefill_blocks, request.hit_blocks - prefill_blocks)


def test_a_cold_request_costs_its_prompt_and_its_full_blocks() -> None:
    """Prompt 10, output 4: KV of 13 tokens (the last is never fed back), 3 full blocks, 2 of them the prompt's."""
    flight = loaded(Request(0, 0, 0, 10, 4, 0), 0)
    counted = predicted(
        small_cluster(), "dualpath", [(Prefill(PE, 0, (Chunk(0, 0, 10, True),)), flight), (Decode(0, DE), flight)]
    )
    assert tokens(counted) == {
        ("cnic", 0, "read", "miss"): 10,
        ("cnic", 1, "write", "miss"): 20,
        ("dram", 1, "write", "miss"): 10,
        ("dram", 1, "read", "miss"): 10,
        ("cnic", 1, "read", "miss"): 10,
        ("cnic", 1, "read", "persist"): 4,
        ("cnic", 1, "write", "persist"): 4,
        ("dram", 1, "write", "persist"): 4,
        ("dram", 1, "read", "persist"): 12,
        ("snic", 1, "write", "persist"): 12,
    }


@pytest.mark.parametrize(
    ("prompt", "generate", "hit_blocks", "staged", "stored"),
    [
        (8, 1, 1, 0, 4),  # one token of output adds no KV
        (8, 4, 1, 0, 4),  # 11 tokens of KV: still two full blocks
        (8, 5, 1, 4, 8),  # 12 tokens: decode has filled one
        (7, 1, 1, 0, 0),
        (7, 2, 1, 4, 4),  # decode fills the block that the prompt began
        (5, 1, 1, 0, 0),
    ],
)
def test_blocks_are_stored_once_they_are_full(
    prompt: int, generate: int, hit_blocks: int, staged: int, stored: int
) -> None:
    flight = loaded(Request(0, 0, 0, prompt, generate, hit_blocks), hit_blocks)
    counted = tokens(predicted(small_cluster(), "dualpath", [(Decode(0, DE), flight)]))
    assert counted.get(("cnic", 1, "write", "persist"), 0) == staged
    assert counted.get(("snic", 1, "write", "persist"), 0) == stored


@pytest.mark.parametrize("prefill_blocks", [0, 2, 5])
def test_hit_tokens_by_either_side_or_both(prefill_blocks: int) -> None:
    """5 hit blocks: x tokens by the PE side, y by the DE side, one miss token; each hop as in section 2.2."""
    request = Request(0, 0, 0, 21, 1, 5)
    flight = loaded(request, prefill_blocks)
    x, y = prefill_blocks * BLOCK_TOKENS, (5 - prefill_blocks) * BLOCK_TOKENS
    steps: list[tuple[Command, Flight]] = [(Assigned(0, PE, DE, prefill_blocks, 5 - prefill_blocks, 0, 0), flight)]
    steps.append((Admit(0), flight))
    if x:
        steps.append((Read(0, "prefill", PE, 0, prefill_blocks), flight))
    if y:
        steps.append((Read(0, "decode", DE, prefill_blocks, 5 - prefill_blocks), flight))
    steps += [(Prefill(PE, 0, (Chunk(0, 20, 1, True),)), flight), (Decode(0, DE), flight)]
    expected = {
        ("snic", 0, "read", "prefill"): x,
        ("dram", 0, "write", "prefill"): x,
        ("dram", 0, "read", "prefill"): x,
        ("cnic", 0, "read", "prefill"): 2 * x,
        ("cnic", 0, "write", "prefill"): x,
        ("cnic", 1, "write", "prefill"): 2 * x,
        ("dram", 1, "write", "prefill"): x,
        ("dram", 1, "read", "prefill"): x,
        ("cnic", 1, "read", "prefill"): x,
        ("snic", 1, "read", "decode"): y,
        ("dram", 1, "write", "decode"): y,
        ("dram", 1, "read", "decode"): 2 * y,
        ("cnic", 1, "read", "decode"): 2 * y,
        ("cnic", 0, "write", "decode"): y,
        ("cnic", 1, "write", "decode"): y,
        ("cnic", 0, "read", "miss"): 1,
        ("cnic", 1, "write", "miss"): 2,
        ("dram", 1, "write", "miss"): 1,
        ("dram", 1, "read", "miss"): 1,
        ("cnic", 1, "read", "miss"): 1,
    }
    assert tokens(predicted(small_cluster(), "split", steps)) == {
        key: value for key, value in expected.items() if value
    }


def test_a_later_chunk_loads_the_hit_again_and_the_earlier_chunk_from_the_decode_side() -> None:
    """Hit 8 (4 by each side), miss 7 in chunks of 4 and 3."""
    cluster = small_cluster()
    flight = loaded(Request(0, 0, 0, 15, 1, 2), 1)
    first = command_stages(cluster, Prefill(PE, 0, (Chunk(0, 8, 4, False),)), flight)
    assert {(s.stage, s.route): s.tokens for s in first if s.tokens} == {
        ("load-prefill", "prefill"): 4,
        ("load-decode", "decode"): 4,
        ("forward", "prefill"): 4,
        ("forward", "miss"): 4,
    }
    second = command_stages(cluster, Prefill(PE, 1, (Chunk(0, 12, 3, True),)), flight)
    assert {(s.stage, s.route): s.tokens for s in second if s.tokens} == {
        ("load-prefill", "prefill"): 4,
        ("load-decode", "decode"): 4,
        ("load-decode", "miss"): 4,
        ("forward", "miss"): 3,
    }


def test_a_batch_charges_each_request_to_its_own_engines() -> None:
    cluster = small_cluster(prefill=(1, 1), decode=(2, 1))
    flights = {number: Flight(Request(number, number, 0, 5, 1, 0), 0, 1 + number) for number in range(2)}
    prediction = BytePrediction(cluster, ARMS["dualpath"])
    prediction.add([Prefill(0, 0, (Chunk(0, 0, 5, True), Chunk(1, 0, 3, False)))], flights)
    assert prediction.bytes == {
        Charge("cnic", 0, 0, "read", "miss"): 8 * KV,
        Charge("cnic", 1, 1, "write", "miss"): 5 * KV,
        Charge("dram", 1, None, "write", "miss"): 5 * KV,
        Charge("cnic", 2, 2, "write", "miss"): 3 * KV,
        Charge("dram", 2, None, "write", "miss"): 3 * KV,
    }


def test_the_oracle_moves_nothing() -> None:
    flight = loaded(Request(0, 0, 0, 21, 9, 5), 2)
    steps: list[tuple[Command, Flight]] = [
        (Read(0, "prefill", PE, 0, 2), flight),
        (Prefill(PE, 0, (Chunk(0, 20, 1, True),)), flight),
        (Decode(0, DE), flight),
    ]
    assert not predicted(small_cluster(), "oracle", steps)
    assert predicted(small_cluster(), "split", steps)


@pytest.mark.parametrize("arm", ["basic", "layerwise", "dualpath-rr", "dualpath", "split"])
@pytest.mark.parametrize("quota_pairs", [30, 10**9])
def test_predictions_from_a_scheduler_add_up(arm: str, quota_pairs: int) -> None:
    """Fed as a run feeds it: a commands' bytes are predicted before the next event, one request after the other."""
    cluster = small_cluster(quota_pairs=quota_pairs)
    scheduler, prediction = Scheduler(cluster, ARMS[arm]), BytePrediction(cluster, ARMS[arm])
    forwarded = 0
    requests = [Request(0, 0, 0, 30, 1, 0), Request(1, 0, 1, 41, 1, 7)]
    for request in requests:
        pending = scheduler.handle(TurnDue(0, request))
        while pending:
            prediction.add(pending, scheduler.flights)
            following: list[Command] = []
            for command in pending:
                match command:
                    case Read(request=number, side=side):
                        following += scheduler.handle(ReadDone(0, number, side))
                    case Prefill(engine=engine, batch=batch, chunks=chunks):
                        forwarded += sum(chunk.new_tokens for chunk in chunks)
                        following += scheduler.handle(PrefillComputed(0, engine, batch, 0))
                        following += scheduler.handle(PrefillSent(0, engine, batch))
            pending = following
    counted = tokens(prediction.bytes)
    assert forwarded == 30 + 41 - 28
    assert counted["dram", 1, "write", "miss"] == forwarded
    reads = sum(number for key, number in counted.items() if (key[0], key[2]) == ("snic", "read"))
    assert reads == 28
    by_prefill = counted.get(("snic", 0, "read", "prefill"), 0)
    assert counted.get(("dram", 1, "read", "prefill"), 0) == by_prefill  # step 8, once
    assert counted.get(("cnic", 1, "write", "prefill"), 0) == 2 * by_prefill  # steps 7 and 9, once, chunks or not
    if quota_pairs == 30 and ARMS[arm].quota:
        assert counted["cnic", 0, "write", "miss"] > 0  # chunks came back
    else:
        assert ("cnic", 0, "write", "miss") not in counted
