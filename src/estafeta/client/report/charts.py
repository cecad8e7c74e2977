"""Line charts as SVG text.

Pure. Invariants: a chart has at most `MOST_POINTS` points a line, however many values it is given; all text is escaped.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]
MOST_POINTS = 400
WIDTH, HEIGHT = 460, 230
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 12, 40
"""Margins in pixels, for the axes' numbers and titles."""


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most `most` round numbers within a range, at distances of 1, 2 or 5 times a power of ten."""
    if not low < high:
        return [low]
    raw = (high - low) / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def scale(low: float, high: float, begin: float, end: float, value: float) -> float:
    """Place of a value between two pixels; the middle if the range has no length."""
    return begin + (value - low) / (high - low) * (end - begin) if high > low else (begin + end) / 2


def thinned(points: Points, most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most `most` points, with the least and the greatest value of each stretch, so that no spike is lost."""
    if len(points) <= most:
        return list(points)
    width = math.ceil(len(points) / (most // 2))
    kept = []
    for first in range(0, len(points), width):
        stretch = points[first : first + width]
        kept += sorted({min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])})
    return kept


def line_chart(title: str, lines: Mapping[str, Points], best: float | None = None, x_title: str = "epoch") -> str:
    """Draw lines over a common axis.

    Args:
        title: Name of the values.
        lines: Points by name, in the order of x; the chart leaves out values that are not finite.
        best: Marked x, if any.
        x_title: Name of x.
    """
    finite = {name: [p for p in points if math.isfinite(p[1])] for name, points in lines.items()}
    everything = [point for points in finite.values() for point in points]
    if not everything:
        return f"<p>{escape(title)}: no finite value.</p>"
    (x0, x1), (y0, y1) = (_range([p[axis] for p in everything]) for axis in (0, 1))
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def place(point: tuple[float, float]) -> tuple[float, float]:
        return scale(x0, x1, LEFT, right, point[0]), scale(y0, y1, bottom, TOP, point[1])

    parts = []
    for y in ticks(y0, y1):
        at = place((x0, y))[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in ticks(x0, x1):
        if x == int(x):
            at = place((x, y0))[0]
            parts.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{x:g}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>')
    middle = (LEFT + right) / 2
    parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_title)}</text>')
    if best is not None and x0 <= best <= x1:
        at = place((best, y0))[0]
        parts.append(f'<line class="best" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{bottom}"/>')
    for number, points in enumerate(finite.values()):
        places = [place(point) for point in thinned(points)]
        if len(places) > 1:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            parts.append(f'<path class="line s{number % 2}" d="M{path}"/>')
        marked = places if len(places) == 1 else [place(p) for p in points if p[0] == best]
        parts += [f'<circle class="dot s{number % 2}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in marked]
    told = "; ".join(
        f"{name} from {points[0][1]:.4g} to {points[-1][1]:.4g}" for name, points in finite.items() if points
    )
    marks = f"; best epoch {best:g}" if best is not None else ""
    keys = "".join(f'<span><i class="s{i % 2}"></i>{escape(name)}</span>' for i, name in enumerate(finite))
    return (
        f"<figure><figcaption><b>{escape(title)}</b> {keys}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{escape(title)}</title>'
        f"<desc>{escape(told + marks)}</desc>{''.join(parts)}</svg></figure>"
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The least and the greatest value; equal values get a little room on both sides."""
    low, high = min(values), max(values)
    room = abs(low) * 0.1 or 1.0
    return (low, high) if low < high else (low - room, high + room)
