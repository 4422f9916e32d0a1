from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from dualpath.core.errors import TraceError
from dualpath.core.trajectory import Trajectory
from dualpath.trace.importers import FORMATS, ImportReport, import_trace
from dualpath.trace.reader import TraceFile
from dualpath.trace.stats import trace_stats
from dualpath.trace.validate import validate


def _imported(format: str, path: Path, out: Path) -> tuple[ImportReport, list[Trajectory]]:
    report = import_trace(format, path, out)
    assert validate(out).is_valid
    with TraceFile.open(out) as trace:
        assert trace.meta.source_sha256 is not None
        assert (trace.num_trajectories, trace.num_turns) == (report.num_trajectories, report.num_turns)
        return report, list(trace)


def _lcp(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _hits(prompts: list[list[int]]) -> int:
    """Blocks shared with any earlier prompt, the obvious way."""
    return sum(max((_lcp(prompt, earlier) for earlier in prompts[:i]), default=0) for i, prompt in enumerate(prompts))


def _original_lists(session: dict[str, Any], *, twins: bool) -> list[list[dict[str, Any]]]:
    """Main thread and sub-agents of a session, second twins removed, written independently of the importer."""
    main = [r for r in session["requests"] if r["type"] != "subagent"]
    lists = [main, *(r["requests"] for r in session["requests"] if r["type"] == "subagent")]
    if not twins:
        return lists
    kept = []
    for requests in lists:
        out: list[dict[str, Any]] = []
        second = False
        for before, now in zip([None, *requests], requests, strict=False):
            is_twin = (
                not second
                and before is not None
                and before["in"] == now["in"]
                and (before["type"] != now["type"] or not before["out"] or not now["out"])
            )
            second = is_twin
            if not is_twin:
                out.append(now)
        kept.append(out)
    return kept


@pytest.mark.parametrize(
    ("sample", "twins"),
    [
        ("kv-cache-tester-v8/sample", False),
        ("kv-cache-tester-v6/sample", True),
        ("kv-cache-tester-v8/sample/trace_0291.json", False),
    ],
)
def test_kv_cache_tester_keeps_every_hash_and_hit(
    shared_traces: Path, tmp_path: Path, sample: str, twins: bool
) -> None:
    source, out = shared_traces / sample, tmp_path / "out.parquet"
    report, trajectories = _imported("kv-cache-tester", source, out)
    files = sorted(source.glob("*.json")) if source.is_dir() else [source]
    lists = [requests for file in files for requests in _original_lists(json.loads(file.read_text()), twins=twins)]
    assert len(trajectories) == len(lists)
    for trajectory, requests in zip(trajectories, lists, strict=True):
        assert [list(turn.block_hashes or ()) for turn in trajectory.turns] == [r["hash_ids"] for r in requests]
        assert trajectory.prompt_tokens() == [r["in"] for r in requests]
        assert [turn.generate_tokens for turn in trajectory.turns] == [max(1, r["out"]) for r in requests]
    with TraceFile.open(out) as trace:
        hits = trace_stats(trace).hits_within
    assert hits is not None
    assert hits.hit_tokens == sum(64 * _hits([r["hash_ids"] for r in requests]) for requests in lists)
    assert hits.prompt_tokens == sum(r["in"] for requests in lists for r in requests)
    assert ("twin requests" in report.dropped) is twins


@pytest.mark.parametrize("release", ["v6", "v8"])
def test_kv_cache_tester_archive_agrees_with_its_published_turn_table(
    shared_traces: Path, tmp_path: Path, release: str
) -> None:
    folder = shared_traces / f"kv-cache-tester-{release}"
    out = tmp_path / "out.parquet"
    report = import_trace("kv-cache-tester", folder / "original-traces.tar.zst", out)
    table = pa.parquet.read_table(folder / "turns.parquet").to_pylist()
    with TraceFile.open(out) as trace:
        stats = trace_stats(trace)
    threads = {(row["session"], row["thread"]) for row in table}
    assert stats.num_sub_agents == sum(thread != "main" for _, thread in threads)
    assert stats.hits_within is not None
    assert stats.hits_across is not None
    assert stats.hits_across.hit_tokens >= stats.hits_within.hit_tokens
    if release == "v8":
        assert report.num_turns == len(table)
        assert stats.hits_within.hit_tokens == sum(64 * row["lcp_best_blocks"] for row in table)
        # keep_tokens, derived from the hashes, says nearly what they say; it counts outputs besides.
        assert stats.hits_planned.rate == pytest.approx(stats.hits_within.rate, abs=0.005)
    else:
        assert report.num_turns == sum(not row["twin_of_prev"] for row in table)


def _call(t: float, prompt: int, out: int, kind: str = "n", **more: Any) -> dict[str, Any]:
    hashes = more.pop("hash_ids", list(range(prompt // 64)))
    return {"t": t, "type": kind, "in": prompt, "out": out, "hash_ids": hashes, **more}


def _session(requests: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"id": "s", "block_size": 64, "hash_id_scope": "local", "requests": requests, **more}


def _kv(tmp_path: Path, session: dict[str, Any]) -> tuple[ImportReport, list[Trajectory]]:
    path = tmp_path / "s.json"
    path.write_text(json.dumps(session))
    return _imported("kv-cache-tester", path, tmp_path / "out.parquet")


def test_negative_appends_become_kept_tokens(tmp_path: Path) -> None:
    edited = [0, 1, 99, 98]
    _, (trajectory,) = _kv(
        tmp_path,
        _session(
            [
                _call(0, 300, 100),
                _call(9, 350, 50),  # thinking dropped: the prompt is kept, the output is not
                _call(20, 290, 10, hash_ids=edited),  # edited after two blocks
                _call(30, 340, 10, hash_ids=[*edited, 7]),  # continues
            ]
        ),
    )
    assert [turn.keep_tokens for turn in trajectory.turns] == [None, 300, 128, None]
    assert trajectory.prompt_tokens() == [300, 350, 290, 340]


def test_twins_and_think_time_of_both_releases(tmp_path: Path) -> None:
    twins = [
        _call(0, 300, 0, "s", api_time=5, think_time=0),
        _call(5, 300, 40, "n", api_time=6, think_time=0),
        _call(12, 400, 30, "s", api_time=2, think_time=1),
        _call(14, 400, 31, "n", api_time=3, think_time=0),
    ]
    report, (trajectory,) = _kv(tmp_path, _session(twins, hash_id_scope="global"))
    assert report.dropped == {"twin requests": 2}
    assert [turn.generate_tokens for turn in trajectory.turns] == [40, 30]
    assert [turn.gap_ns for turn in trajectory.turns] == [0, 10**9]
    single = [
        _call(0, 300, 40, "s", api_time=5, think_time=0),
        _call(12, 400, 30, "s", api_time=2, think_time=7),  # 5 s of it the twin of the call before
        _call(24, 500, 30, "n", api_time=4, think_time=10),  # 4 s of it its own twin
    ]
    _, (trajectory,) = _kv(tmp_path, _session(single))
    assert [turn.gap_ns for turn in trajectory.turns] == [0, 2 * 10**9, 6 * 10**9]


def test_sub_agents_become_children_their_parent_waits_for(tmp_path: Path) -> None:
    def sub(agent: str, end: float, duration_ms: int, status: str = "completed") -> dict[str, Any]:
        calls = [_call(0, 100, 9, api_time=1, think_time=0)]
        return {
            "t": end, "type": "subagent", "agent_id": agent, "duration_ms": duration_ms, "status": status,
            "requests": calls,
        }  # fmt: skip

    items = [
        _call(0, 300, 40, api_time=5, think_time=0),
        _call(10, 400, 40, api_time=5, think_time=5),
        sub("x", 75, 60_000),
        sub("x", 95, 80_000),
        sub("late", 500, 5_000, "async_launched"),
        _call(115, 500, 40, api_time=5, think_time=100),
    ]
    report, (main, first, second, late) = _kv(tmp_path, _session(items))
    assert [t.id for t in (first, second, late)] == ["s/x", "s/x~2", "s/late"]
    assert [t.parent_turn for t in (first, second, late)] == [1, 1, 2]
    assert {t.parent for t in (first, second, late)} == {"s"}
    assert main.turns[2].gap_ns == 15 * 10**9, "100 s less the call's twin (5 s) and the longer sub-agent (80 s)"
    assert report.changed["sub-agents launched asynchronously, now waited for"] == 1


def test_kv_cache_tester_reads_archives(tmp_path: Path) -> None:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name in ("b", "a"):
            data = json.dumps(_session([_call(0, 300, 5)]) | {"id": name}).encode()
            entry = tarfile.TarInfo(f"traces/{name}.json")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    path = tmp_path / "t.tar.zst"
    path.write_bytes(pa.compress(plain.getvalue(), codec="zstd", asbytes=True))
    _, trajectories = _imported("kv-cache-tester", path, tmp_path / "out.parquet")
    assert [trajectory.id for trajectory in trajectories] == ["b", "a"]
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(TraceError, match="copy it again"):
        import_trace("kv-cache-tester", path, tmp_path / "cut.parquet")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"hash_id_scope": "galaxy"}, "hash_id_scope is 'galaxy'"),
        ({"block_size": 0}, "block_size is 0"),
        ({"requests": [{"t": 0, "type": "n", "in": -4, "out": 1, "hash_ids": []}]}, "request 0: in is -4"),
        ({"requests": [_call(0, 64, 1, hash_ids=[1, 2])]}, "2 hash_ids for a prompt of 64"),
        ({"requests": "none"}, "requests must be a list"),
        ({"id": None}, "id is None"),
        ({"requests": []}, "nothing to write"),
    ],
)
def test_a_bad_session_is_named(tmp_path: Path, change: dict[str, Any], part: str) -> None:
    with pytest.raises(TraceError, match=part):
        _kv(tmp_path, _session([_call(0, 300, 5)]) | change)
    assert not (tmp_path / "out.parquet").exists()


def test_mooncake_chains_and_hits(shared_traces: Path, tmp_path: Path) -> None:
    source = shared_traces / "mooncake" / "sample" / "conversation_trace.head300.jsonl"
    requests = [json.loads(line) for line in source.read_text().splitlines()]
    tokens = sum(r["input_length"] for r in requests)
    expected = 0
    for i, r in enumerate(requests):
        best = max((_lcp(r["hash_ids"], e["hash_ids"]) for e in requests[:i]), default=0)
        expected += min(512 * best, r["input_length"])
    for format in ("mooncake", "mooncake-requests"):
        report, trajectories = _imported(format, source, tmp_path / f"{format}.parquet")
        assert report.num_turns == len(requests)
        with TraceFile.open(tmp_path / f"{format}.parquet") as trace:
            hits = trace_stats(trace).hits_across
        assert hits is not None
        assert (hits.hit_tokens, hits.prompt_tokens) == (expected, tokens)
    assert all(len(trajectory.turns) == 1 for trajectory in trajectories)


def _mooncake(tmp_path: Path, *rows: tuple[int, int, int, list[int]]) -> Path:
    names = ("timestamp", "input_length", "output_length", "hash_ids")
    path = tmp_path / "m.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)
    return path


def test_mooncake_continuations(tmp_path: Path) -> None:
    path = _mooncake(
        tmp_path,
        (0, 1200, 100, [0, 1, 2]),
        (5, 1200, 100, [0, 3, 4]),
        (9, 1500, 10, [0, 1, 5]),  # continues the first: its full blocks 0 and 1, longer than 1300
        (9, 1600, 10, [0, 1, 5, 6]),  # begins with 0, 1, 5 too, but is partial there: full blocks 0, 1
        (12, 1250, 10, [0, 3, 7]),  # shorter than the second with its output
    )
    report, trajectories = _imported("mooncake", path, tmp_path / "out.parquet")
    assert [t.id for t in trajectories] == ["chain-000000", "chain-000001", "chain-000003", "chain-000004"]
    chained = trajectories[0]
    assert chained.prompt_tokens() == [1200, 1500]
    assert [turn.arrival_ns for turn in chained.turns] == [0, 9_000_000]
    assert any("sessions" in line for line in report.assumed)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ('{"timestamp": 1, "input_length": 10, "output_length": 1, "hash_ids": [1, 2]}', "line 1: 2 hash_ids"),
        ('{"timestamp": 1, "input_length": 1.5, "output_length": 1, "hash_ids": [1]}', "input_length is 1.5"),
        ('{"session_id": "a", "input_length": 10, "output_length": 1, "hash_ids": []}', "incremental"),
        ('{"timestamp": 1, ', "is not JSON"),
        ("[1]", "not an object"),
    ],
)
def test_a_bad_mooncake_line_is_named(tmp_path: Path, line: str, part: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(TraceError, match=part):
        import_trace("mooncake", path, tmp_path / "out.parquet")


def test_unsorted_mooncake_is_refused(tmp_path: Path) -> None:
    path = _mooncake(tmp_path, (5, 10, 1, [0]), (4, 10, 1, [0]))
    with pytest.raises(TraceError, match="line 2: timestamp 4 is before"):
        import_trace("mooncake", path, tmp_path / "out.parquet")


def test_trie(tmp_path: Path) -> None:
    run = {
        "num_turns": 2,
        "input_prompt_length": 500,
        "assistant_response_length": [20, 30],
        "tool_call_output_length": [100, 0],
        "tool_call_latency": [0.5, 1.25],
        "final_assistant_response_length": 40,
    }
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(run) + "\n")
    report, (trajectory,) = _imported("trie", path, tmp_path / "out.parquet")
    assert [(t.append_tokens, t.generate_tokens, t.gap_ns) for t in trajectory.turns] == [
        (500, 20, 0),
        (100, 30, 500_000_000),
        (1, 40, 1_250_000_000),
    ]
    assert report.changed == {"lengths of 0 tokens, now 1": 1}
    path.write_text(json.dumps(run | {"num_turns": 3}) + "\n")
    with pytest.raises(TraceError, match="num_turns is 3"):
        import_trace("trie", path, tmp_path / "out.parquet")


@pytest.mark.parametrize(
    ("format", "sample", "sessions", "turns"),
    [
        ("trie", "trie-applied-compute/sample/office_work_8k.head8.jsonl", 8, 247),
        ("tracelab", "tracelab-example/sanitized_round_trace.jsonl", 2, 19),
        ("table", "agentcgroup-swe-rebench/turns.parquet", 119, 4153),
    ],
)
def test_published_samples(
    shared_traces: Path, tmp_path: Path, format: str, sample: str, sessions: int, turns: int
) -> None:
    report, trajectories = _imported(format, shared_traces / sample, tmp_path / "out.parquet")
    assert (report.num_trajectories, report.num_turns) == (sessions, turns)
    assert any(turn.gap_ns for trajectory in trajectories for turn in trajectory.turns)


def test_agentcgroup_prompts_are_the_recorded_ones(shared_traces: Path, tmp_path: Path) -> None:
    source = shared_traces / "agentcgroup-swe-rebench" / "turns.parquet"
    _, trajectories = _imported("table", source, tmp_path / "out.parquet")
    recorded: dict[str, list[int]] = {}
    for row in pa.parquet.read_table(source).sort_by([("session", "ascending"), ("turn", "ascending")]).to_pylist():
        name = row["session"] if row["thread"] == "main" else f"{row['session']}/{row['thread']}"
        recorded.setdefault(name, []).append(row["input_tokens"])
    assert {trajectory.id: trajectory.prompt_tokens() for trajectory in trajectories} == recorded


def _csv(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "t.csv"
    path.write_text(text)
    return path


def test_a_plain_table(tmp_path: Path) -> None:
    path = _csv(tmp_path, "session,turn,append,output,delay,mood\nb,1,20,5,0.5,x\nb,0,100,5,,x\na,0,70,0,,x\n")
    report, (b, a) = _imported("table", path, tmp_path / "out.parquet")
    assert (b.id, a.id) == ("b", "a")
    assert b.prompt_tokens() == [100, 125]
    assert b.turns[1].gap_ns == 500_000_000
    assert a.turns[0].generate_tokens == 1
    assert report.dropped == {"columns (mood)": 1}
    assert report.changed == {"outputs of 0 tokens, now 1": 1}
    assert any(line.startswith("dropped: 1 columns (mood)") for line in report.lines())


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("session,turn,append\na,0,5\n", "no column for output"),
        ("session,turn,output\na,0,5\n", "no column for append"),
        ("session,turn,append,output\na,0,5,-1\n", r"row 0: output is -1"),
        ("session,turn,append,output\na,0,5,1\na,0,5,1\n", "row 1: session 'a' has turn 0 twice"),
        ("session,turn,append,output\na,0,,1\n", "row 0: append is None"),
        ("session,turn,append,output,delay\na,0,5,1,0\na,1,5,1,-3\n", "row 1: delay is -3"),
        ("session,turn,append,output\na,0\n", "cannot be read"),
    ],
)
def test_a_bad_table_is_named(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(TraceError, match=part):
        import_trace("table", _csv(tmp_path, text), tmp_path / "out.parquet")


@pytest.mark.parametrize("format", FORMATS)
def test_a_missing_source_is_named(tmp_path: Path, format: str) -> None:
    with pytest.raises(TraceError, match="does not exist"):
        import_trace(format, tmp_path / "none", tmp_path / "out.parquet")


def test_an_unknown_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="the formats are kv-cache-tester, mooncake"):
        import_trace("csv", tmp_path, tmp_path / "out.parquet")
