"""A drawn figure as what a page needs: SVG that follows the page's colours, a PNG file, and the words under it."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure as Drawing

from dualpath.report import missing
from dualpath.report.style import INKS, PAPER


@dataclass(frozen=True, slots=True)
class Figure:
    """`caption` says how to read it and what it does not show."""

    id: str
    title: str
    caption: str
    svg: str  # for use inside a page: no XML head, ids of its own, inks as CSS variables
    png: bytes  # on paper colour, for Markdown and mail

    @property
    def file_name(self) -> str:
        return f"{self.id}.png"

    @property
    def standalone_svg(self) -> str:
        """For a file of its own, on paper."""
        svg = self.svg
        for ink, variable in INKS.items():
            svg = svg.replace(f"var({variable})", ink)
        return svg

    def save(self, folder: Path) -> None:
        (folder / self.file_name).write_bytes(self.png)


def finish(drawing: Drawing, id: str, title: str, caption: str, *, gaps: str = "") -> Figure:
    """Render a matplotlib figure and close it. gaps: said in the caption where a point is missing, and why.

    Raises RunError where a point that does not exist would be drawn and nothing is said of it.
    """
    svg, png = io.StringIO(), io.BytesIO()
    try:
        caption = " ".join(filter(None, (caption, missing.note(drawing, id, gaps))))
        drawing.savefig(svg, format="svg", bbox_inches="tight", pad_inches=0.04, metadata={"Date": None})
        drawing.savefig(png, format="png", dpi=170, bbox_inches="tight", pad_inches=0.12, facecolor=PAPER)
    finally:
        plt.close(drawing)
    return Figure(id, title, caption, _inline(svg.getvalue(), id, title), png.getvalue())


def _inline(svg: str, id: str, title: str) -> str:
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{id}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{id}-\1)", body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{id}-\1"', body)
    body = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", body)
    body = re.sub(r"<[^>]*>", _shorter, body)
    for ink, variable in INKS.items():
        body = body.replace(ink, f"var({variable})")
    width = re.search(r'width="([0-9.]+)pt"', body)
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1)
    points = float(width.group(1)) if width else 540.0
    body = re.sub(
        r'(<svg[^>]*?) width="[^"]*"',
        rf'\1 style="width:100%;min-width:{min(points, 560):.0f}px;max-width:{points * 1.6:.0f}px"',
        body,
        count=1,
    )
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return body.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _shorter(tag: re.Match[str]) -> str:
    """A hundredth of a point is finer than any screen. Only within tags: what is written between them is for readers,
    who are not to see 0.967 cut to 0.96."""
    return re.sub(r"(\d\.\d{2})\d+", r"\1", tag[0])
