"""A forked copy of this process, for one purpose: where there is one thread only, of which there is one in the copy."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing.context import ForkProcess
from pathlib import Path


def forked(name: str, body: Callable[[], None]) -> ForkProcess:
    """It runs `body`, says on its stderr why that failed, and ends, whatever it has started. name: as `ps` shows it."""

    def become() -> None:
        try:
            with contextlib.suppress(OSError):
                Path("/proc/self/comm").write_text(name)
            body()
        except BaseException:  # the process's boundary
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(1)  # multiprocessing would wait for children of its own, and they for its end

    process = multiprocessing.get_context("fork").Process(target=become)
    process.start()
    return process
