"""The invocations of a run over time, as SVG text: a lane for each rank and function.

Pure. Invariant: the picture is bounded (`MOST_LANES`, `MOST_ROWS`, `SLOT`), however many invocations there were. Boxes
that are too close to be told apart become one, which looks like the worst of them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape

from estafeta.client.logbook import Entry
from estafeta.client.report.charts import scale, ticks

MOST_LANES = 24
MOST_ROWS = 2
"""Number of rows in a lane: a successor starts while the leg before it is at work."""
SLOT = 4.0
"""Least number of pixels between the beginnings of two boxes."""
WIDTH, LEFT, RIGHT, ROW, TOP = 960, 74, 12, 12, 4
KINDS = ("done", "retry", "running", "failed")
"""Kinds of boxes; a later kind covers an earlier one."""


@dataclass(frozen=True)
class Span:
    """An invocation, or several in one box.

    Attributes:
        lane: `rank 0`, `prepare`, `merge`, `control`.
        start: Milliseconds since 1970 at which the handler began.
        end: Milliseconds since 1970 at which it ended.
        init: Milliseconds in which the environment started before that; 0 if it was warm.
        kind: One of `KINDS`.
        text: Description.
        count: Number of invocations.
    """

    lane: str
    start: float
    end: float
    init: float = 0.0
    kind: str = "done"
    text: str = ""
    count: int = 1

    @property
    def begin(self) -> float:
        """Milliseconds since 1970 at which its environment started, or its handler."""
        return self.start - self.init


def lane_of(entry: Entry) -> str:
    """Name of an invocation's lane: that of a rank, or of a function."""
    if entry.role == "worker" and entry.note.get("task") in ("train", "valid", "reside"):
        return f"rank {entry.note.get('rank', 0)}"
    return str(entry.note.get("task", "worker")) if entry.role == "worker" else entry.role


def spans_of(entries: Iterable[Entry], now_ms: float) -> list[Span]:
    """Invocations as spans, in the order of their start.

    Args:
        entries: Invocations in the order of their start.
        now_ms: End of a span without a REPORT line.
    """
    seen: set[str] = set()
    spans = []
    for entry in entries:
        kind = "retry" if entry.request_id in seen else "done"
        seen.add(entry.request_id)
        kind = "failed" if entry.has_failed else kind if entry.report else "running"
        end = entry.started_at + entry.duration_ms if entry.report else max(now_ms, entry.started_at)
        leg = f" leg {entry.note['leg']}" if "leg" in entry.note else ""
        spans.append(Span(lane_of(entry), entry.started_at, end, entry.init_ms, kind, f"{lane_of(entry)}{leg}"))
    return spans


def packed(spans: Sequence[Span], most: int = MOST_ROWS) -> list[list[Span]]:
    """Spans in rows: each in the first row that is free at its beginning, or else in the last row."""
    rows: list[list[Span]] = []
    for span in sorted(spans, key=lambda span: span.begin):
        free = next((row for row in rows if row[-1].end <= span.begin), None)
        if free is None and len(rows) < most:
            free = []
            rows.append(free)
        (rows[-1] if free is None else free).append(span)
    return rows


def coalesced(row: Sequence[Span], slot_ms: float) -> list[Span]:
    """Spans of a row whose beginnings are at least so far apart; closer ones are joined."""
    boxes: list[Span] = []
    for span in row:
        if boxes and span.begin - boxes[-1].begin < slot_ms:
            last = boxes[-1]
            kind = max(last.kind, span.kind, key=KINDS.index)
            boxes[-1] = replace(last, end=max(last.end, span.end), kind=kind, count=last.count + span.count)
        else:
            boxes.append(span)
    return boxes


def timeline(spans: Sequence[Span]) -> str:
    """Draw the spans; empty if there are none."""
    if not spans:
        return ""
    begin, end = min(span.begin for span in spans), max(span.end for span in spans)
    end = max(end, begin + 1)
    lanes = sorted({span.lane for span in spans}, key=_order)
    parts, at = [], float(TOP)
    slot_ms = SLOT / (WIDTH - LEFT - RIGHT) * (end - begin)

    def place(moment: float) -> float:
        return scale(begin, end, LEFT, WIDTH - RIGHT, moment)

    for lane in lanes[:MOST_LANES]:
        rows = packed([span for span in spans if span.lane == lane])
        parts.append(f'<text x="{LEFT - 8}" y="{at + 10:.0f}" text-anchor="end">{escape(lane)}</text>')
        for row in rows:
            parts += [_box(span, place, at, begin) for span in coalesced(row, slot_ms)]
            at += ROW
        at += 5
    for seconds in ticks(0, (end - begin) / 1000, 8):
        x = place(begin + seconds * 1000)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{at:.0f}"/>')
        parts.append(f'<text x="{x:.1f}" y="{at + 14:.0f}" text-anchor="middle">{seconds:g} s</text>')
    hidden = len(lanes) - MOST_LANES
    note = f"<p>{hidden} more lanes are left out of the picture, not of the tables.</p>" if hidden > 0 else ""
    return (
        f'<svg class="wide" viewBox="0 0 {WIDTH} {at + 20:.0f}" role="img"><title>Invocations over time</title>'
        f"<desc>{len(spans)} invocations in {len(lanes)} lanes over {(end - begin) / 1000:.1f} seconds; "
        f"the tables below have the figures.</desc>{''.join(parts)}</svg>{note}"
    )


def _box(span: Span, place: Callable[[float], float], at: float, begin: float) -> str:
    x, start, end = place(span.begin), place(span.start), place(span.end)
    cold = (
        f'<rect class="cold" x="{x:.1f}" y="{at:.0f}" width="{start - x:.1f}" height="{ROW - 2}"/>' if span.init else ""
    )
    many = f", {span.count} invocations" if span.count > 1 else ""
    text = (
        f"{span.text}{many}: {span.kind}, from {(span.start - begin) / 1000:.2f} s to {(span.end - begin) / 1000:.2f} s"
    )
    return (
        f'{cold}<rect class="{span.kind}" x="{start:.1f}" y="{at:.0f}" width="{max(1.5, end - start):.1f}" '
        f'height="{ROW - 2}"><title>{escape(text)}</title></rect>'
    )


def _order(lane: str) -> tuple[int, int, str]:
    """Sort key of a lane: the merge, the ranks, other tasks of workers, control, so that the first lanes tell most."""
    word, _, number = lane.partition(" ")
    if word == "rank":
        return 1, int(number), lane
    return {"control": 3, "merge": 0}.get(lane, 2), 0, lane
