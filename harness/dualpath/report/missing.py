"""A figure draws no point that does not exist: not as 0, not as a line across its place.

What is missing is either left out, or given to matplotlib as NaN, which draws a gap, and then the caption must say so.
Not seen is a missing end of an area between lines: matplotlib cuts it off before there is anything to look at. Missing
in the middle it leaves two areas, of nothing at all none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure as Drawing
from matplotlib.patches import Rectangle, StepPatch

from dualpath.core.errors import RunError
from dualpath.report.style import SOFT_INK

_NO_NUMBER = re.compile(r"\b(nan|inf|None)\b")
_NO_VALUE = "no value"


def note(drawing: Drawing, id: str, gaps: str) -> str:
    """What the caption must say of points that are not there; `gaps` is said where lines or maps have gaps.

    Raises RunError where there are some and `gaps` is empty, and where a number that does not exist is written out.
    """
    for text in _texts(drawing):
        if _NO_NUMBER.search(text):
            raise RunError(
                f"figure {id}: it would say {text!r}, where a value is missing; give runs of one kind (cluster, trace, "
                "mode, rate) at a time, each a report of their own: then no text has to tell them apart"
            )
    found = [gap for axes in drawing.axes for gap in _gaps(axes)]
    if found and not gaps:
        raise RunError(
            f"figure {id}: a point that does not exist would be drawn ({found[0]}, {len(found)} in all); leave it "
            "out, or pass `gaps`, a sentence for the caption that says why it is missing"
        )
    words = [gaps] if found else []
    if any(text.get_text() == _NO_VALUE for axes in drawing.axes for text in axes.texts):
        words.append(f"“{_NO_VALUE}”: the run is missing or void, or has no such value.")
    return " ".join(words)


def mark(axes: Axes, row: float) -> None:
    """In place of a horizontal bar that has no value."""
    axes.annotate(
        _NO_VALUE,
        (0, row),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        size=7.5,
        style="italic",
        color=SOFT_INK,
    )


def _texts(drawing: Drawing) -> Iterator[str]:
    """All that is written: titles, labels, ticks, legends and notes."""
    for axes in drawing.axes:
        written = [*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels(), axes.xaxis.label, axes.yaxis.label]
        if (legend := axes.get_legend()) is not None:
            written += legend.get_texts()
        yield from (text.get_text() for text in written)
        yield from (axes.get_title(loc=loc) for loc in ("left", "center", "right"))
    yield from (text.get_text() for text in drawing.texts)


def _gaps(axes: Axes) -> Iterator[str]:
    """One entry per artist with a coordinate, length or colour value that is not a finite number."""
    title = axes.get_title(loc="left") or axes.get_title()
    for kind, values in _values(axes):
        if not np.all(np.isfinite(np.ma.filled(np.ma.asarray(values, dtype=float), np.nan))):
            yield f"{kind} of panel {title!r}" if title else kind


def _values(axes: Axes) -> Iterator[tuple[str, object]]:
    for line in axes.lines:
        yield "line", line.get_xydata()
    for patch in axes.patches:
        if isinstance(patch, Rectangle):
            yield "bar", (*patch.get_xy(), patch.get_width(), patch.get_height())
        elif isinstance(patch, StepPatch):
            yield "steps", patch.get_data()[0]
    for image in axes.images:
        yield "image", image.get_array()
    for collection in axes.collections:
        yield "marks", collection.get_offsets()
        if isinstance(collection, LineCollection | PolyCollection):
            kind = "segment" if isinstance(collection, LineCollection) else "area"
            yield from ((kind, path.vertices) for path in collection.get_paths())  # get_segments() leaves out NaN
        if isinstance(collection, PolyCollection) and collection.get_array() is None:
            yield "area", 0.0 if len(collection.get_paths()) == 1 else np.nan
        if collection.get_array() is not None:
            yield "map", collection.get_array()
