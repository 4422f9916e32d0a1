"""What a block store holds: its layout, written once into store.json and checked by everyone who opens it."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from dualpath.core.errors import StoreError
from dualpath.engine.direct_io import align_up, store_error

FORMAT = "dualpath-block-store"
VERSION = 1


@dataclass(frozen=True, slots=True)
class StoreLayout:
    """What every block of a store has in common. `model` names the model and data type of the KV."""

    model: str
    block_tokens: int
    block_bytes: int

    def __post_init__(self) -> None:
        if not self.model:
            raise StoreError("store layout: model is empty; name the model whose KV is stored")
        if self.block_tokens < 1 or self.block_bytes < 1:
            raise StoreError(
                f"store layout: block_tokens is {self.block_tokens} and block_bytes {self.block_bytes}; "
                "both must be at least 1"
            )

    @property
    def stride_bytes(self) -> int:
        """Distance of two blocks in a file, and the size of a slot that can be read into without a copy."""
        return align_up(self.block_bytes)


def create_store(directory: Path | str, layout: StoreLayout) -> None:
    """Makes the directory and its store.json, or checks the one there. Safe from several processes."""
    directory = Path(directory)
    text = json.dumps({"format": FORMAT, "version": VERSION, **asdict(layout)}, indent=1) + "\n"
    draft = directory / f".store.json.{os.getpid()}.{threading.get_ident()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not (directory / "store.json").exists():
            draft.write_text(text)
            with contextlib.suppress(FileExistsError):
                os.link(draft, directory / "store.json")  # appears whole or not at all, and never replaces another
    except OSError as error:
        raise store_error(error, directory, "create a block store") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
    check_store(directory, layout)


def check_store(directory: Path | str, layout: StoreLayout) -> None:
    """Raises StoreError unless `directory` holds a store of exactly this layout."""
    path = Path(directory) / "store.json"
    try:
        raw = path.read_text()
    except FileNotFoundError as error:
        what = "has no store.json" if Path(directory).is_dir() else "does not exist"
        raise StoreError(f"{directory}: {what}: not a block store; create it first, or check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: cannot be read: {error}; delete the store and write it anew") from error
    wanted = {"format": FORMAT, "version": VERSION, **asdict(layout)}
    try:
        found = json.loads(raw)
    except json.JSONDecodeError as error:
        raise StoreError(f"{path}: not JSON ({error}); delete the store and write it anew") from error
    if found != wanted:
        raise StoreError(
            f"{path}: made for another model or layout: the store has {found}, this run wants {wanted}; "
            "choose another storage directory, or delete this one"
        )
