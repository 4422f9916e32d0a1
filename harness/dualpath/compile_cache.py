"""Where compiled code is kept: one folder per version of the sources that are compiled.

numba looks at a function's own file when it decides whether its cache is stale, not at the files of what it calls. So
the folder is named after all of theirs. (What else is compiled calls nothing of another file.)
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

PACKAGE = Path(__file__).parent
COMPILED = ("core", "sim")
# What decides which turns arrive when, what a simulation does with them, and what its tables say.
SIMULATION = (*COMPILED, "trace", "results", "cluster_file.py", "plan.py", "shares.py", "simulate.py")


def source_digest(*parts: str) -> str:
    """Of folders and files of the package; of all that decides what a simulation makes of its inputs, where none is
    named."""
    digest = hashlib.blake2b(digest_size=8)
    places = [PACKAGE / part for part in parts or SIMULATION]
    sources = [source for place in places for source in ([place] if place.is_file() else place.glob("**/*.py"))]
    for source in sorted(sources):
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()


def choose_folder() -> None:
    """Called before numba is imported. A folder that the environment names (NUMBA_CACHE_DIR) is left alone."""
    folder = PACKAGE / "__pycache__"
    if not os.access(folder if folder.exists() else PACKAGE, os.W_OK):
        folder = Path.home() / ".cache" / "dualpath"  # nobody else's: numba unpickles what it finds there
    os.environ.setdefault("NUMBA_CACHE_DIR", str(folder / f"compiled-{source_digest(*COMPILED)}"))
