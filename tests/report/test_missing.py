"""A point that does not exist is refused, or its gap is told of."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pytest
import seaborn as sns
from dualpath.core.errors import RunError
from dualpath.report import missing, style
from dualpath.report.digits import three_digits
from dualpath.report.figure import Figure, finish
from matplotlib.axes import Axes

GAP = "The second repeat was not run."


def _draw(draw: Callable[[Axes], object], gaps: str = "") -> Figure:
    style.apply()
    drawing, axes = plt.subplots()
    axes.set_title("cpu-1p1d")
    draw(axes)
    return finish(drawing, "speed", "Speed", "How fast.", gaps=gaps)


def _heat(axes: Axes) -> None:
    sns.heatmap(np.array([[1.0, math.nan]]), ax=axes)


MISSING = {
    "line": lambda axes: axes.plot([0, 1, 2], [1.0, math.nan, 3.0]),
    "bar": lambda axes: axes.barh([0, 1], [1.0, math.nan]),
    "steps": lambda axes: axes.stairs([1.0, math.nan], [0, 1, 2]),
    "image": lambda axes: axes.imshow([[1.0, math.nan]]),
    "marks": lambda axes: axes.scatter([0, 1], [1.0, math.nan]),
    "map": _heat,
    "segment": lambda axes: axes.vlines([0, math.nan], 0, 1),
    "area": lambda axes: axes.fill_between([0, 1, 2, 3, 4], 0, [1.0, 2.0, math.nan, 3.0, 2.0]),
}


@pytest.mark.parametrize("kind", MISSING)
def test_a_value_that_is_missing_is_refused_unless_the_caption_tells_why(kind: str) -> None:
    with pytest.raises(RunError, match=f"figure speed: a point that does not exist .*{kind} of panel 'cpu-1p1d'"):
        _draw(MISSING[kind])
    assert _draw(MISSING[kind], GAP).caption == f"How fast. {GAP}"
    assert plt.get_fignums() == []


def test_none_becomes_a_gap_and_infinity_is_no_point_either() -> None:
    for value in (None, math.inf):
        with pytest.raises(RunError, match="does not exist"):
            _draw(lambda axes, value=value: axes.plot([0, 1], [1.0, value]))


def test_where_nothing_is_missing_nothing_is_said() -> None:
    def whole(axes: Axes) -> None:
        axes.plot([0, 1], [1.0, 2.0])
        axes.axhline(1)
        axes.fill_between([0, 1], 1, 2)
        axes.barh([0], [0.0])  # a nought that was measured
        axes.errorbar([0, 1], [1.0, 2.0], yerr=[0.1, 0.2])
        axes.vlines([0, 1], 0, 1)

    assert _draw(whole, GAP).caption == "How fast."


def test_the_length_of_an_error_bar_and_an_area_of_nothing_are_missed_too() -> None:
    with pytest.raises(RunError, match=r"does not exist .*segment of panel 'cpu-1p1d'"):
        _draw(lambda axes: axes.errorbar([0, 1], [1.0, 2.0], yerr=[0.1, math.nan]))
    with pytest.raises(RunError, match=r"does not exist .*area of panel 'cpu-1p1d'"):
        _draw(lambda axes: axes.fill_betweenx([0, 1], 0, [math.nan, math.nan]))


SAYING: dict[str, Callable[[Axes], object]] = {
    "text": lambda axes: axes.text(0, 0, f"{math.nan} ms"),
    "title": lambda axes: axes.set_title(f"{math.nan} ms", loc="left"),
    "axis": lambda axes: axes.set_xlabel(f"{math.nan} ms"),
    "ticks": lambda axes: axes.set_yticks([0, 1], ["1 ms", f"{math.nan} ms"]),
    "legend": lambda axes: axes.legend(axes.plot([0, 1], [1, 2]), [f"{math.nan} ms"]),
    "heading": lambda axes: axes.figure.suptitle(f"{math.nan} ms"),
}


@pytest.mark.parametrize("where", SAYING)
def test_nothing_that_is_written_says_nan(where: str) -> None:
    with pytest.raises(RunError, match=r"figure speed: it would say 'nan ms'.*give runs of one kind"):
        _draw(SAYING[where], GAP)


def test_a_bar_without_a_value_is_marked_and_explained() -> None:
    figure = _draw(lambda axes: missing.mark(axes, 0))
    assert "no value" in figure.svg
    assert figure.caption == "How fast. “no value”: the run is missing or void, or has no such value."


def test_numbers_in_a_figure_are_written_whole() -> None:
    def draw(axes: Axes) -> None:
        axes.text(0.123456, 0, three_digits(0.9673625))
        axes.set_yticks([0.125])

    svg = _draw(draw).svg
    assert ">0.967</text>" in svg
    assert ">0.125</text>" in svg
    assert not re.search(r'="[^"]*\d\.\d{3}', svg), "coordinates are short"
