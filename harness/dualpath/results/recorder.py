"""Raw rows of a run, kept while it runs and written once at its end, whatever the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dualpath.core.arms import Arm
from dualpath.core.commands import Admit, Assigned, Command, Prefill
from dualpath.core.events import Event, PrefillComputed, PrefillSent, ReadDone, TurnDue, TurnEnded
from dualpath.core.flight import Flight
from dualpath.core.hops import BytePrediction
from dualpath.core.trajectory import Trajectory
from dualpath.results.tables import TABLES

_Row = dict[str, Any]


class Recorder:
    """A `core.loop.Recorder`. Knows nothing of who executes: engine, simulator and null engine write the same.

    flights: the scheduler's. now_ns: the run's clock, for the moment a command was given. encode: an event or
    command as JSON text. progress: called with the number of ended turns.
    """

    def __init__(
        self,
        trajectories: Sequence[Trajectory],
        planned_hits: Sequence[Sequence[int]],
        arm: Arm,
        prediction: BytePrediction,
        flights: dict[int, Flight],
        now_ns: Callable[[], int],
        encode: Callable[[object], str],
        progress: Callable[[int], None],
    ) -> None:
        self._trajectories = trajectories
        self._planned_hits = planned_hits
        self._arm = arm
        self._prediction = prediction
        self._flights = flights
        self._now_ns = now_ns
        self._encode = encode
        self._progress = progress
        self._turns: dict[int, _Row] = {}
        self._decisions: list[_Row] = []
        self._batches: dict[int, Prefill] = {}
        self.ended = 0
        self.last_end_ns = 0
        self.decision_ns = 0
        self.links: list[_Row] = []
        self.blocks: list[_Row] = []

    def decided(self, event: Event, commands: Sequence[Command], cost_ns: int) -> None:
        self.decision_ns += cost_ns
        self._note_event(event)
        assigned: Assigned | None = None
        for command in commands:
            if isinstance(command, Assigned):
                assigned = command
            self._note_command(command)
        self._prediction.add(commands, self._flights)
        self._decisions.append(self._decision(event, commands, assigned, cost_ns))

    def turn_key(self, request: int) -> tuple[str, int]:
        """(trajectory id, turn) of a request."""
        row = self._turns[request]
        return row["trajectory"], row["turn"]

    def route_of(self, request: int) -> str:
        return str(self._turns[request]["route"])

    def write(self, directory: Path) -> None:
        """All tables, as Parquet; `predicted` beside `links`."""
        tables: dict[str, Iterable[_Row]] = {
            "turns": self._turns.values(),
            "links": self.links,
            "decisions": self._decisions,
        }
        if self.blocks:
            tables["blocks"] = self.blocks
        for name, rows in tables.items():
            table = pa.Table.from_pylist(list(rows), schema=TABLES[name])
            pq.write_table(table, directory / f"{name}.parquet", compression="zstd")
        predicted = [
            {**charge._asdict(), "bytes": num_bytes}
            for charge, num_bytes in sorted(self._prediction.bytes.items(), key=str)
        ]
        schema = pa.schema(
            [TABLES["links"].field(name) for name in ("resource", "node", "engine", "direction", "route", "bytes")]
        )
        pq.write_table(
            pa.Table.from_pylist(predicted, schema=schema), directory / "predicted.parquet", compression="zstd"
        )

    def _note_event(self, event: Event) -> None:
        match event:
            case TurnDue():
                self._turns[event.request.id] = self._turn(event)
            case ReadDone():
                # the last of a split request's two reads stands
                self._turns[event.request]["read_end_ns"] = event.t_ns
            case PrefillComputed():
                for chunk in self._batches[event.batch].chunks:
                    row = self._turns[chunk.request]
                    if row["prefill_start_ns"] is None:
                        row["prefill_start_ns"] = event.start_ns
                    if chunk.last:
                        row["first_token_ns"] = event.t_ns
            case PrefillSent():
                for chunk in self._batches.pop(event.batch).chunks:
                    if chunk.last:
                        self._turns[chunk.request]["prefill_end_ns"] = event.t_ns
            case TurnEnded():
                self._turns[event.request].update(
                    second_token_ns=event.second_token_ns,
                    end_ns=event.end_ns,
                    persisted_ns=event.t_ns,
                    output_hash=event.output_hash,
                    status="ok",
                    error=None,
                )
                self.ended += 1
                self.last_end_ns = max(self.last_end_ns, event.end_ns)
                self._progress(self.ended)
            case _:
                pass

    def _note_command(self, command: Command) -> None:
        match command:
            case Assigned():
                row = self._turns[command.request]
                block_tokens = row["hit_tokens"] // (command.prefill_blocks + command.decode_blocks or 1)
                row["scheduled_ns"] = self._now_ns()
                row["prefill_engine"] = command.prefill_engine
                row["decode_engine"] = command.decode_engine
                row["decode_side_tokens"] = command.decode_blocks * block_tokens
                row["route"] = route_name(command.prefill_blocks, command.decode_blocks, self._arm)
            case Admit():
                row = self._turns[command.request]
                row["read_start_ns"] = self._now_ns()
                if not row["hit_tokens"]:
                    row["read_end_ns"] = row["read_start_ns"]
            case Prefill():
                self._batches[command.batch] = command
            case _:
                pass

    def _turn(self, event: TurnDue) -> _Row:
        request = event.request
        trajectory = self._trajectories[request.trajectory]
        turn = trajectory.turns[request.turn]
        hit_tokens = request.hit_blocks * self._prediction.block_tokens
        row: _Row = dict.fromkeys(TABLES["turns"].names)
        row.update(
            trajectory=trajectory.id,
            turn=request.turn,
            append_tokens=turn.append_tokens,
            generate_tokens=turn.generate_tokens,
            planned_hit_tokens=self._planned_hits[request.trajectory][request.turn],
            hit_tokens=hit_tokens,
            miss_tokens=request.prompt_tokens - hit_tokens,
            decode_side_tokens=0,
            due_ns=event.t_ns,
            status="unfinished",
            error="the run ended before this turn did",
        )
        return row

    def _decision(self, event: Event, commands: Sequence[Command], assigned: Assigned | None, cost_ns: int) -> _Row:
        row: _Row = dict.fromkeys(TABLES["decisions"].names)
        row.update(
            index=len(self._decisions),
            t_ns=event.t_ns,
            cost_ns=cost_ns,
            event=self._encode(event),
            commands="[" + ",".join(self._encode(command) for command in commands) + "]",
        )
        if assigned is not None:
            row.update(
                request=assigned.request,
                prefill_engine=assigned.prefill_engine,
                decode_engine=assigned.decode_engine,
                route=route_name(assigned.prefill_blocks, assigned.decode_blocks, self._arm),
                prefill_queue_tokens=assigned.prefill_queue_tokens,
                decode_queue_tokens=assigned.decode_queue_tokens,
            )
        return row


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
    """Replace a file whole, or not at all."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(value, indent=1, default=str) + "\n")
    draft.replace(path)
