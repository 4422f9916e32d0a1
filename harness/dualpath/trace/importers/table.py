"""A plain table, CSV or Parquet: one row per turn with session, turn, append or input, output, optional delay.

Known columns go by several names (ALIASES), so that published turn tables work as they are. Held in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from dualpath.core.errors import TraceError
from dualpath.core.trajectory import Trajectory, Turn
from dualpath.trace.importers.source import NO_HASHES, NO_PARENTS, Source, placed, seconds_to_ns

# meaning -> names it goes by, the first one found wins
ALIASES: dict[str, tuple[str, ...]] = {
    "session": ("session", "session_id", "trajectory", "conversation_id"),
    "thread": ("thread",),
    "turn": ("turn", "turn_index", "round", "round_index"),
    "append": ("append_tokens", "append"),
    "input": ("input_tokens", "input", "prompt_tokens", "input_length"),
    "output": ("output_tokens", "output", "generate_tokens", "completion_tokens", "output_length"),
    "output_reliable": ("output_tokens_reliable",),
    "output_estimate": ("output_tokens_o200k_est",),
    "delay_s": ("delay_detwinned_s", "tool_delay_s", "delay_s", "delay"),
    "delay_ms": ("delay_ms",),
    "twin": ("twin_of_prev",),
}

_Row = dict[str, Any]


def read(path: Path) -> Source:
    """Raises TraceError where session, turn, output, or both append and input are missing."""
    table = _load(path)
    names = {meaning: found for meaning, aliases in ALIASES.items() if (found := _first(aliases, table))}
    for meaning in ("session", "turn", "output"):
        if meaning not in names:
            _missing(path, table, meaning)
    if "append" not in names and "input" not in names:
        _missing(path, table, "append")
    has_delay = "delay_s" in names or "delay_ms" in names
    has_input = "input" in names
    source = Source(
        description=f"turn table {path.name}",
        trajectories=iter(()),
        given=("trajectory", "turn", "generate_tokens", *(() if has_input else ("append_tokens",))),
        derived={
            **({"append_tokens": f"{names['input']} less kept context"} if has_input else {}),
            "keep_tokens": "the previous prompt where the context shrank",
            **({"gap_ns": names.get("delay_s") or names["delay_ms"]} if has_delay else {}),
        },
        absent=("arrival_ns", *(() if has_delay else ("gap_ns",)), *NO_PARENTS, *NO_HASHES),
        assumed=("a context that grew continues the turn before",),
    )
    unused = [name for name in table.column_names if name not in names.values()]
    if unused:
        source.dropped[f"columns ({', '.join(unused)})"] = len(unused)
    source.trajectories = _sessions(path, table, names, source)
    return source


def _load(path: Path) -> pa.Table:
    try:
        with path.open("rb") as file:
            is_parquet = file.read(4) == b"PAR1"
        return pq.read_table(path) if is_parquet else pyarrow.csv.read_csv(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise TraceError(f"{path}: cannot be read as Parquet or CSV ({reason}); check or copy it again") from error


def _first(aliases: tuple[str, ...], table: pa.Table) -> str | None:
    return next((name for name in aliases if name in table.column_names), None)


def _missing(path: Path, table: pa.Table, meaning: str) -> NoReturn:
    wanted = ALIASES[meaning] + (ALIASES["input"] if meaning == "append" else ())
    raise TraceError(
        f"{path}: no column for {meaning}; it has {', '.join(table.column_names)}. "
        f"Name one of them {' or '.join(wanted)}."
    )


def _sessions(path: Path, table: pa.Table, names: dict[str, str], source: Source) -> Iterator[Trajectory]:
    sessions: dict[str, dict[int, _Row]] = {}
    columns = {meaning: table[name].to_pylist() for meaning, name in names.items()}
    for index in range(table.num_rows):
        row = {meaning: values[index] for meaning, values in columns.items()}
        where = f"{path}: row {index}"
        if row.get("twin"):
            source.dropped["twin rows"] += 1
            continue
        if row["session"] is None:
            _bad(where, names["session"], None, "a name")
        name = str(row["session"])
        if row.get("thread") not in (None, "main"):
            name = f"{name}/{row['thread']}"
        turn = _count(where, names["turn"], row["turn"])
        turns = sessions.setdefault(name, {})
        if turn in turns:
            raise TraceError(f"{where}: session {name!r} has turn {turn} twice; drop one of the rows")
        turns[turn] = row | {"where": where}
    for name, turns in sessions.items():
        yield _trajectory(name, [turns[turn] for turn in sorted(turns)], names, source.changed)


def _trajectory(name: str, rows: list[_Row], names: dict[str, str], changed: Counter[str]) -> Trajectory:
    turns: list[Turn] = []
    prompt = output = 0
    for index, row in enumerate(rows):
        now = _prompt(row, names, prompt + output, first=index == 0)
        if now < 1:
            changed["prompts of less than 1 token, now 1"] += 1
            now = 1
        keep, append = placed(now, prompt, output, None) if index else (None, now)
        prompt, output = now, _output(row, names, changed)
        turns.append(Turn(append, output, _gap_ns(row, names, changed) if index else 0, keep))
    return Trajectory(name, tuple(turns))


def _prompt(row: _Row, names: dict[str, str], context: int, *, first: bool) -> int:
    """The prompt's length: as given, or the context so far plus the append (which may be negative)."""
    if row.get("input") is not None:
        return _count(row["where"], names["input"], row["input"])
    if row.get("append") is None:
        _bad(row["where"], names.get("append", names.get("input", "append")), None, "a whole number")
    return context + _count(row["where"], names["append"], row["append"], least=None if not first else 0)


def _output(row: _Row, names: dict[str, str], changed: Counter[str]) -> int:
    value, column = row["output"], names["output"]
    if row.get("output_reliable") is False and row.get("output_estimate") is not None:
        changed[f"outputs marked unreliable, taken from {names['output_estimate']}"] += 1
        value, column = row["output_estimate"], names["output_estimate"]
    output = _count(row["where"], column, value)
    if output < 1:
        changed["outputs of 0 tokens, now 1"] += 1
    return max(1, output)


def _gap_ns(row: _Row, names: dict[str, str], changed: Counter[str]) -> int:
    meaning = "delay_s" if "delay_s" in names else "delay_ms"
    value = row.get(meaning)
    if value is None:
        if meaning in names:
            changed["gaps not recorded, now 0"] += 1
        return 0
    if not isinstance(value, int | float) or not value >= 0:
        _bad(row["where"], names[meaning], value, "a number of at least 0")
    return seconds_to_ns(value if meaning == "delay_s" else value / 1e3)


def _count(where: str, column: str, value: object, least: int | None = 0) -> int:
    whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
    if not whole or (least is not None and value < least):  # type: ignore[operator]  # whole: it is a number
        _bad(where, column, value, "a whole number" + ("" if least is None else f" of at least {least}"))
    return int(value)  # type: ignore[call-overload,no-any-return]  # whole: it is a number


def _bad(where: str, column: str, value: object, wanted: str) -> NoReturn:
    raise TraceError(f"{where}: {column} is {value!r}; it must be {wanted}. Correct or drop the row.")
