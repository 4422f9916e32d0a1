"""Raw rows of a run, written while it runs; what is under way when it ends, however it ends, is written then."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from dualpath.core.arms import Arm
from dualpath.core.commands import Admit, Assigned, Command, Prefill
from dualpath.core.errors import RunError
from dualpath.core.events import Event, PrefillComputed, PrefillSent, ReadDone, TurnDue, TurnEnded
from dualpath.core.flight import Flight
from dualpath.core.hops import BytePrediction
from dualpath.core.trajectory import Trajectory
from dualpath.results.table_writer import TableWriter
from dualpath.results.tables import TABLES

_Row = dict[str, Any]


class Recorder:
    """A `core.loop.Recorder`. Knows nothing of who executes: engine and null engine write the same.

    trajectory: of a number that the feed gave, while it runs. flights: the scheduler's. progress: called with the
    number of ended turns.
    """

    def __init__(
        self,
        directory: Path,
        trajectory: Callable[[int], Trajectory],
        arm: Arm,
        prediction: BytePrediction,
        flights: dict[int, Flight],
        progress: Callable[[int], None],
    ) -> None:
        self._directory = directory
        self._trajectory = trajectory
        self._arm = arm
        self._prediction = prediction
        self._flights = flights
        self._progress = progress
        self._planned_hits: dict[int, list[int]] = {}  # by number of a trajectory under way
        self._under_way: dict[int, _Row] = {}  # rows of `turns`, by request
        self._batches: dict[int, Prefill] = {}
        self._turns = TableWriter(directory / "turns.parquet", TABLES["turns"])
        self._decisions = TableWriter(directory / "decisions.parquet", TABLES["decisions"])
        self._num_decisions = 0
        self.ended = 0
        self.last_end_ns = 0
        self.decision_ns = 0

    def decided(self, event: Event, commands: Sequence[Command], at_ns: int, cost_ns: int) -> None:
        self.decision_ns += cost_ns
        self._note_event(event, at_ns)
        for command in commands:
            self._note_command(command, at_ns)
        self._prediction.add(commands, self._flights)
        self._decisions.append(decision_row(self._num_decisions, event, commands, cost_ns))
        self._num_decisions += 1

    def close(self, links: Sequence[_Row], optional: dict[str, Sequence[_Row]]) -> None:
        """Finish all tables; `predicted` stands beside `links`. optional: rows of tables that are written only where
        there are any. Raises RunError."""
        for row in self._under_way.values():
            self._turns.append(row)
        self._turns.close()
        self._decisions.close()
        self._write("links", TABLES["links"], links)
        write_predicted(self._directory, self._prediction)
        for name, rows in optional.items():
            if rows:
                self._write(name, TABLES[name], rows)

    def _write(self, name: str, schema: pa.Schema, rows: Sequence[_Row]) -> None:
        table = TableWriter(self._directory / f"{name}.parquet", schema)
        for row in rows:
            table.append(row)
        table.close()

    def _note_event(self, event: Event, at_ns: int) -> None:
        match event:
            case TurnDue():
                self._under_way[event.request.id] = self._turn(event, at_ns)
            case ReadDone():
                row = self._under_way[event.request]  # of a split request's two reads the later one counts
                row["read_end_ns"] = max(row["read_end_ns"] or 0, event.t_ns)
            case PrefillComputed():
                for chunk in self._batches[event.batch].chunks:
                    row = self._under_way[chunk.request]
                    if row["prefill_start_ns"] is None:
                        row["prefill_start_ns"] = event.start_ns
                    if chunk.last:
                        row["first_token_ns"] = event.t_ns
            case PrefillSent():
                for chunk in self._batches.pop(event.batch).chunks:
                    if chunk.last:
                        self._under_way[chunk.request]["prefill_end_ns"] = event.t_ns
            case TurnEnded():
                row = self._under_way.pop(event.request)
                row.update(
                    second_token_ns=event.second_token_ns,
                    end_ns=event.end_ns,
                    persisted_ns=event.t_ns,
                    output_hash=event.output_hash,
                    status="ok",
                    error=None,
                )
                self._turns.append(row)
                self.ended += 1
                self.last_end_ns = max(self.last_end_ns, event.end_ns)
                self._progress(self.ended)
            case _:
                pass

    def _note_command(self, command: Command, at_ns: int) -> None:
        match command:
            case Assigned():
                self._under_way[command.request].update(
                    scheduled_ns=at_ns,
                    prefill_engine=command.prefill_engine,
                    decode_engine=command.decode_engine,
                    decode_side_tokens=command.decode_blocks * self._prediction.block_tokens,
                    route=route_name(command.prefill_blocks, command.decode_blocks, self._arm),
                    prefill_queue_tokens=command.prefill_queue_tokens,
                    decode_queue_tokens=command.decode_queue_tokens,
                )
            case Admit():
                row = self._under_way[command.request]
                row["read_start_ns"] = at_ns
                if not row["hit_tokens"]:
                    row["read_end_ns"] = row["read_start_ns"]
            case Prefill():
                self._batches[command.batch] = command
            case _:
                pass

    def _turn(self, event: TurnDue, at_ns: int) -> _Row:
        request = event.request
        trajectory = self._trajectory(request.trajectory)
        if request.turn == 0:
            self._planned_hits[request.trajectory] = trajectory.planned_hit_tokens(self._prediction.block_tokens)
        planned_hits = self._planned_hits[request.trajectory]
        if request.turn + 1 == len(planned_hits):
            del self._planned_hits[request.trajectory]
        turn = trajectory.turns[request.turn]
        hit_tokens = request.hit_blocks * self._prediction.block_tokens
        row: _Row = dict.fromkeys(TABLES["turns"].names)
        row.update(
            request=request.id,
            trajectory=trajectory.id,
            turn=request.turn,
            append_tokens=turn.append_tokens,
            generate_tokens=turn.generate_tokens,
            planned_hit_tokens=planned_hits[request.turn],
            hit_tokens=hit_tokens,
            miss_tokens=request.prompt_tokens - hit_tokens,
            decode_side_tokens=0,
            due_ns=event.t_ns,
            released_ns=at_ns,
            status="unfinished",
            error="the run ended before this turn did",
        )
        return row


def write_predicted(directory: Path, prediction: BytePrediction) -> None:
    """The table `predicted`: bytes that the hop table says the scheduler's commands cost. Raises RunError."""
    table = TableWriter(
        directory / "predicted.parquet", pa.schema([TABLES["links"].field(name) for name in _PREDICTED])
    )
    for charge, num_bytes in sorted(prediction.bytes.items(), key=str):
        table.append({**charge._asdict(), "bytes": num_bytes})
    table.close()


def decision_row(index: int, event: Event, commands: Sequence[Command], cost_ns: int | None) -> _Row:
    return {
        "index": index,
        "t_ns": event.t_ns,
        "cost_ns": cost_ns,
        "event": _encode(event),
        "commands": "[" + ",".join(_encode(command) for command in commands) + "]",
    }


def _encode(value: object) -> str:
    """An event or command as JSON: [type, fields]."""
    return msgspec.json.encode([type(value).__name__, value]).decode()


_PREDICTED = ("resource", "node", "engine", "direction", "route", "bytes")


def route_name(prefill_blocks: int, decode_blocks: int, arm: Arm) -> str:
    """The route of a request, by what each side reads."""
    if not prefill_blocks and not decode_blocks:
        return "none"
    if not arm.moves_kv:
        return "skipped"
    if prefill_blocks and decode_blocks:
        return "split"
    return "prefill" if prefill_blocks else "decode"


def write_json(path: Path, value: object) -> None:
    """Replace a file whole, or not at all. Raises RunError."""
    draft = path.with_suffix(".draft")
    try:
        draft.write_text(json.dumps(value, indent=1, default=str) + "\n")
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise RunError(f"{path}: cannot be written: {error.strerror}; free space, or choose another -o") from None
