"""The fixture of the hot loops: pytest-benchmark times them, and under callgrind their instructions are counted."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dualpath.gate.benchmarks import INSTRUCTIONS
from dualpath.gate.callgrind import Callgrind
from dualpath.gate.instructions import DUMPS
from pytest_benchmark.fixture import BenchmarkFixture

COUNTS = 3  # of a loop; the least says most: memory laid out otherwise, a resized table, only add to it
Loop = Callable[[], object]


@pytest.fixture
def hot(benchmark: BenchmarkFixture) -> Iterator[Callable[[Loop], None]]:
    """Runs a loop once, so that all it needs is compiled and cached; then measures it, without collecting garbage."""

    def measure(loop: Loop) -> None:
        loop()
        gc.collect()
        gc.disable()
        dumps = os.environ.get(DUMPS)
        if dumps is None:
            benchmark(loop)
            return
        counter, counts = Callgrind(Path(dumps)), list[int]()
        benchmark.pedantic(lambda: counts.append(counter.count(loop)), rounds=COUNTS, iterations=1)
        benchmark.extra_info[INSTRUCTIONS] = min(counts)

    yield measure
    gc.enable()
