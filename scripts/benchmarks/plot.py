"""Bars as an SVG file that reads well on a light and on a dark page."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LABELS, RIGHT = 760, 270, 90  # pixels: in all, of the names, of the figures
ROW, BAR = 30, 16  # pixels
FONT = "13px system-ui, sans-serif"
OURS, THEIRS, TEXT, RANGE = "#2f7d5b", "#8a94a3", "#6b7480", "#d0682a"


@dataclass(frozen=True, slots=True)
class Bar:
    name: str
    value: float
    least: float
    most: float
    is_ours: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Bars of one scale."""

    title: str
    bars: Sequence[Bar]


def draw(groups: Sequence[Group]) -> str:
    """Return the SVG: a bar to the median, and over it a line from the least to the most."""
    parts: list[str] = []
    y = 0
    for group in groups:
        scale = (WIDTH - LABELS - RIGHT) / max(bar.most for bar in group.bars)
        y += ROW
        parts.append(_text(0, y - 10, group.title, weight="bold"))
        for bar in group.bars:
            end, middle = LABELS + bar.value * scale, y + ROW // 2
            fill = OURS if bar.is_ours else THEIRS
            least, most = (LABELS + value * scale for value in (bar.least, bar.most))
            parts += (
                _text(LABELS - 10, middle + 4, bar.name, anchor="end"),
                f'<rect x="{LABELS}" y="{middle - BAR // 2}" width="{end - LABELS:.1f}" '
                f'height="{BAR}" rx="2" fill="{fill}"/>',
                f'<path d="M{least:.1f} {middle}H{most:.1f}" stroke="{RANGE}" stroke-width="2"/>',
                _text(max(end, most) + 8, middle + 4, f"{bar.value:,.0f}"),
            )
            y += ROW
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 8}" '
        f'style="font:{FONT}" fill="{TEXT}">\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _text(x: float, y: int, words: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" font-weight="{weight}">'
        f"{escape(words)}</text>"
    )
