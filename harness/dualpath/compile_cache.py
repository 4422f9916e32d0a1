"""Where compiled code is kept: one folder per version of the sources that are compiled.

numba looks at a function's own file when it decides whether its cache is stale, not at the files of what it calls. So
the folder is named after all of them.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

PACKAGE = Path(__file__).parent


def source_digest(*folders: str) -> str:
    """Of parts of the package; of all that decides what a simulation does with its inputs, where none is named."""
    digest = hashlib.blake2b(digest_size=8)
    sources = [source for folder in folders or ("core", "sim") for source in PACKAGE.glob(f"{folder}/**/*.py")]
    for source in sorted(sources):
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()


def choose_folder() -> None:
    """Called before numba is imported. A folder that the environment names (NUMBA_CACHE_DIR) is left alone."""
    folder = PACKAGE / "__pycache__"
    if not os.access(folder if folder.exists() else PACKAGE, os.W_OK):
        folder = Path.home() / ".cache" / "dualpath"  # nobody else's: numba unpickles what it finds there
    os.environ.setdefault("NUMBA_CACHE_DIR", str(folder / f"compiled-{source_digest()}"))
