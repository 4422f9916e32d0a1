from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dualpath.core.errors import TraceError
from dualpath.core.trajectory import Trajectory, Turn
from dualpath.trace.reader import TraceFile
from dualpath.trace.schema import COLUMNS, META_KEY, TraceMeta, encode_meta
from dualpath.trace.validate import validate
from dualpath.trace.writer import TraceWriter
from hypothesis import HealthCheck, given, settings

META = TraceMeta(source="test", licence="none")


@st.composite
def trajectories(draw: st.DrawFn, name: str = "a", hash_block: int | None = None) -> Trajectory:
    turns: list[Turn] = []
    context = 0
    hashes: tuple[int, ...] = ()
    for _ in range(draw(st.integers(1, 6))):
        keep = draw(st.none() | st.integers(0, context))
        append, output = draw(st.integers(1, 300)), draw(st.integers(1, 100))
        kept = context if keep is None else keep
        if hash_block:
            shared = draw(st.integers(0, min(len(hashes), kept // hash_block)))
            new = draw(st.lists(st.integers(-(2**62), 2**62), max_size=8))
            hashes = (hashes[:shared] + tuple(new))[: (kept + append) // hash_block]
        gap = draw(st.integers(0, 10**12))
        turns.append(Turn(append, output, gap, keep, None, hashes if hash_block else None))
        context = kept + append + output
    scope = "local" if hash_block else None
    return Trajectory(name, tuple(turns), hash_block_tokens=hash_block, hash_scope=scope)


@given(first=trajectories("a"), second=trajectories("b"), third=trajectories("c", 16))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read(first: Trajectory, second: Trajectory, third: Trajectory, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    meta = TraceMeta(source="test", licence="none", hash_block_tokens=16, hash_scope="local")
    child = Trajectory("b/sub", second.turns, parent="b", parent_turn=len(second.turns) - 1)
    family = [first, second, child, third]
    with TraceWriter(path, meta) as writer:
        for trajectory in family:
            writer.write(trajectory)
    with TraceFile.open(path) as trace:
        assert list(trace) == family
        assert list(trace.trajectories()) == family, "a trace can be read again"
        assert trace.num_trajectories == 4
        assert trace.num_turns == sum(len(t.turns) for t in family)
    assert validate(path).is_valid


def test_sha256_is_of_the_file(write) -> None:
    path = write([Trajectory("a", (Turn(5, 5),))])
    with TraceFile.open(path) as trace, TraceFile.open(path) as again:
        assert trace.sha256 == again.sha256
        assert len(trace.sha256) == 64


def _columns(**changes: list[object]) -> dict[str, list[object]]:
    """Two trajectories of two turns each, with changes."""
    columns: dict[str, list[object]] = {
        "trajectory": ["a", "a", "b", "b"],
        "turn": [0, 1, 0, 1],
        "append_tokens": [100, 10, 100, 10],
        "generate_tokens": [5, 5, 5, 5],
        "keep_tokens": [None] * 4,
        "arrival_ns": [None] * 4,
        "gap_ns": [0] * 4,
        "parent_trajectory": [None] * 4,
        "parent_turn": [None] * 4,
        "hash_shared": [None] * 4,
        "hash_new": [None] * 4,
    }
    return columns | changes


def _raw(path: Path, columns: dict[str, list[object]], trajectories: int = 2, **meta: object) -> Path:
    fields = [field.with_nullable(True) for field in COLUMNS]
    table = pa.table(columns, schema=pa.schema(fields))
    full = TraceMeta(source="t", licence="n", num_turns=table.num_rows, num_trajectories=trajectories, **meta)  # type: ignore[arg-type]
    pq.write_table(table.replace_schema_metadata({META_KEY: encode_meta(full)}), path, row_group_size=2)
    return path


BAD_ROWS = [
    ("append_tokens", [100, -5, 100, 10], "row 1", "append_tokens is -5", "1 to 10,000,000"),
    ("append_tokens", [100, 0, 100, 10], "row 1", "append_tokens is 0", "1 to 10,000,000"),
    ("append_tokens", [100, 10, 20_000_000, 10], "row 2", "append_tokens is 20,000,000", "10,000,000"),
    ("append_tokens", [9_000_000, 2_000_000, 9, 9], "row 1", "append_tokens is 2,000,000", "context to"),
    ("append_tokens", [None, 10, 100, 10], "row 0", "append_tokens is null", "1 to"),
    ("generate_tokens", [5, 5, 5, 0], "row 3", "generate_tokens is 0", "1 to 10,000,000"),
    ("keep_tokens", [None, 106, None, None], "row 1", "keep_tokens is 106", "0 to 105"),
    ("keep_tokens", [3, None, None, None], "row 0", "keep_tokens is 3", "0 to 0"),
    ("turn", [0, 2, 0, 1], "row 1", "turn is 2", "must be 1"),
    ("turn", [1, 0, 0, 1], "row 0", "turn is 1", "must be 0"),
    ("trajectory", ["a", "a", "b", "a"], "row 3", "trajectory is a", "contiguous"),
    ("trajectory", ["", "", "b", "b"], "row 0", "trajectory is ", "1 to 512 characters"),
    ("gap_ns", [0, -1, 0, 0], "row 1", "gap_ns is -1", "0 to"),
    ("arrival_ns", [7, 6, None, None], "row 1", "arrival_ns is 6", "at least 7"),
    ("parent_turn", [0, 0, None, None], "row 0", "parent_turn is 0", "null"),
    ("hash_new", [[1], None, None, None], "row 0", "hash_new is set", "hash_block_tokens"),
]


@pytest.mark.parametrize(("column", "values", "row", "value", "limit"), BAD_ROWS)
def test_a_bad_row_is_named(
    tmp_path: Path, column: str, values: list[object], row: str, value: str, limit: str
) -> None:
    path = _raw(tmp_path / "bad.parquet", _columns(**{column: values}))
    with TraceFile.open(path) as trace, pytest.raises(TraceError) as caught:
        list(trace)
    for part in (str(path), row, value, limit, "dualpath trace validate"):
        assert part in str(caught.value)
    report = validate(path)
    assert not report.is_valid
    assert any(row in problem and value in problem for problem in report.problems)


@pytest.mark.parametrize(
    ("parent", "turn", "part"),
    [("x", 0, "parent_trajectory is x"), ("b", 0, "parent_trajectory is b"), ("a", 2, "parent_turn is 2")],
)
def test_an_unknown_parent_is_named(tmp_path: Path, parent: str, turn: int, part: str) -> None:
    columns = _columns(parent_trajectory=[None, None, parent, parent], parent_turn=[None, None, turn, turn])
    path = _raw(tmp_path / "bad.parquet", columns)
    with TraceFile.open(path) as trace, pytest.raises(TraceError, match=part):
        list(trace)


def test_a_parent_must_be_of_the_same_family(write) -> None:
    turns = (Turn(5, 5),)
    family = [Trajectory("a", turns), Trajectory("b", turns), Trajectory("c", turns, "a", 0)]
    with pytest.raises(TraceError, match="parent_trajectory is a"):
        write(family)


@pytest.mark.parametrize(
    ("shared", "new", "part"),
    [
        ([0, 3, None, None], [[1, 2], [], None, None], "hash_shared is 3"),
        ([0, 2, None, None], [[1, 2], [1] * 9, None, None], "11 block hashes"),
        ([None, None, None, None], [[1], None, None, None], "half null"),
    ],
)
def test_bad_hashes_are_named(tmp_path: Path, shared: list[object], new: list[object], part: str) -> None:
    path = _raw(
        tmp_path / "bad.parquet",
        _columns(hash_shared=shared, hash_new=new),
        hash_block_tokens=16,
        hash_scope="local",
    )
    with TraceFile.open(path) as trace, pytest.raises(TraceError, match=part):
        list(trace)


def test_validate_lists_every_problem_up_to_a_bound(tmp_path: Path) -> None:
    count = 300
    columns = {name: values[:1] * count for name, values in _columns().items()}
    columns |= {"trajectory": [f"t{i}" for i in range(count)], "append_tokens": [-1] * count}
    report = validate(_raw(tmp_path / "bad.parquet", columns, trajectories=count), max_shown=20)
    assert report.num_problems == count
    assert len(report.problems) == 20
    assert report.num_turns == report.num_trajectories == count


def test_validate_checks_the_promised_number_of_trajectories(tmp_path: Path) -> None:
    report = validate(_raw(tmp_path / "bad.parquet", _columns(), trajectories=3))
    assert "promises 3 trajectories" in report.problems[0]


def _refused(path: Path) -> str:
    with pytest.raises(TraceError) as caught:
        TraceFile.open(path)
    assert str(path) in str(caught.value)
    assert validate(path).problems == (str(caught.value),)
    return str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in _refused(tmp_path / "none.parquet")
    assert "is a folder" in _refused(tmp_path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.parquet"
    path.write_bytes(b"")
    assert "0 bytes" in _refused(path)
    no_rows: dict[str, list[object]] = {name: [] for name in _columns()}
    assert "0 rows" in _refused(_raw(tmp_path / "rows.parquet", no_rows, trajectories=0))


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.parquet"
    path.write_text("session,turn\n" * 50)
    assert "cannot be read as Parquet" in _refused(path)


def test_a_truncated_file_is_refused(write) -> None:
    path = write([Trajectory("a", (Turn(5, 5),))])
    path.write_bytes(path.read_bytes()[:-20])
    assert "cut off" in _refused(path)


def test_another_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"session": ["a"], "tokens": [1]}), path)
    message = _refused(path)
    assert "no trace" in message
    assert "trace import table" in message


def _with_table(path: Path, table: pa.Table, meta: bytes) -> Path:
    pq.write_table(table.replace_schema_metadata({META_KEY: meta}), path)
    return path


def test_unknown_missing_and_mistyped_columns_are_refused(tmp_path: Path) -> None:
    meta = encode_meta(TraceMeta(source="t", licence="n", num_trajectories=2, num_turns=4))
    table = pa.table(_columns(), schema=pa.schema([field.with_nullable(True) for field in COLUMNS]))
    extra = table.append_column("colour", pa.array(["red"] * 4))
    assert "unknown column 'colour'" in _refused(_with_table(tmp_path / "a.parquet", extra, meta))
    fewer = table.drop_columns(["turn"])
    assert "'turn' is missing" in _refused(_with_table(tmp_path / "b.parquet", fewer, meta))
    wide = table.set_column(1, "turn", table["turn"].cast(pa.int64()))
    assert "'turn' has type int64" in _refused(_with_table(tmp_path / "c.parquet", wide, meta))
    swapped = table.select([*COLUMNS.names[1:], COLUMNS.names[0]])
    assert "another order" in _refused(_with_table(tmp_path / "d.parquet", swapped, meta))


def test_bad_metadata_is_refused(tmp_path: Path) -> None:
    table = pa.table(_columns(), schema=pa.schema([field.with_nullable(True) for field in COLUMNS]))
    unknown = _with_table(tmp_path / "a.parquet", table, b'{"source": "t", "licence": "n", "colour": 1}')
    assert "colour" in _refused(unknown)
    newer = encode_meta(TraceMeta(source="t", licence="n", schema_version=99))
    assert "schema version 99" in _refused(_with_table(tmp_path / "b.parquet", table, newer))
    wrong = encode_meta(TraceMeta(source="t", licence="n", num_trajectories=1, num_turns=9))
    assert "promises 9 turns" in _refused(_with_table(tmp_path / "c.parquet", table, wrong))
    half = encode_meta(TraceMeta(source="t", licence="n", num_trajectories=2, num_turns=4, hash_block_tokens=64))
    assert "hash_scope" in _refused(_with_table(tmp_path / "d.parquet", table, half))


def test_opening_and_first_trajectories_do_not_touch_later_row_groups(tmp_path: Path) -> None:
    """100,000 trajectories: the file is many bounded row groups, read one at a time."""
    path = tmp_path / "big.parquet"
    turns = (Turn(100, 10), Turn(20, 10))
    with TraceWriter(path, META) as writer:
        for index in range(100_000):
            writer.write(Trajectory(f"t{index}", turns))
    layout = pq.read_metadata(path)
    sizes = [layout.row_group(group).num_rows for group in range(layout.num_row_groups)]
    assert max(sizes) < 17_000, "a reader holds one row group"
    later = layout.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    end = layout.row_group(layout.num_row_groups - 1).column(10).data_page_offset
    data[later:end] = bytes(end - later)
    path.write_bytes(data)
    with TraceFile.open(path) as trace:
        assert trace.num_trajectories == 100_000
        stream = iter(trace)
        first = [next(stream).id for _ in range(sizes[0] // 2 - 1)]
        assert first[:2] == ["t0", "t1"]
        with pytest.raises(TraceError, match="row group 1 of"):
            list(stream)
    assert "damaged" in validate(path).problems[-1]


def _write_all(path: Path, trajectories: list[Trajectory]) -> None:
    with TraceWriter(path, META) as writer:
        for trajectory in trajectories:
            writer.write(trajectory)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with pytest.raises(TraceError, match="append_tokens is 0"):
        _write_all(path, [Trajectory("a", (Turn(1, 1),)), Trajectory("b", (Turn(0, 1),))])
    with pytest.raises(TraceError, match="nothing to write"), TraceWriter(path, META):
        pass
    with pytest.raises(TraceError, match="append_tokens is 0"), TraceWriter(path, META) as writer:
        writer.write(Trajectory("a", (Turn(0, 1),)))
    with pytest.raises(TraceError, match="0 turns"), TraceWriter(path, META) as writer:
        writer.write(Trajectory("a", ()))
    with pytest.raises(TraceError, match="one file holds one kind"), TraceWriter(path, META) as writer:
        writer.write(Trajectory("a", (Turn(64, 1),), hash_block_tokens=64, hash_scope="local"))
    assert list(tmp_path.iterdir()) == []
    with (
        pytest.raises(TraceError, match="folder does not exist"),
        TraceWriter(tmp_path / "no" / "t.parquet", META),
    ):
        pass
