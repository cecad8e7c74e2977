"""Search in log streams for the events that have all words of a pattern.

It only reads files. Invariant: events come in the order (time, stream, offset), and a page's token names its last
event. So pages neither repeat nor miss events while the logs grow. Source: CloudWatch Logs User Guide, "Filter pattern
syntax".
"""

import base64
import heapq
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from estafeta.local.logs.streams import LogEvent, read_events, read_marks

PAGE_BYTES = 2**20  # CloudWatch Logs API reference, FilterLogEvents: a page holds up to 1 MB, or `limit` events
Matcher = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Page:
    """Some events, and the token of the next page if there may be one."""

    events: list[LogEvent]
    next_token: str | None


def pattern(text: str) -> Matcher:
    """Make a test for messages from a filter pattern: every word of it must occur, in upper and lower case as written.

    Raises:
        ValueError: The pattern has a term of another kind, such as a phrase in quotes, a regular expression or JSON.
    """
    words = text.split()
    if any(word[0] in '{[%?-"' for word in words):
        raise ValueError(f"The local service searches for plain words only, not for {text!r}.")
    return lambda message: all(word in message for word in words)


def search(
    root: Path,
    group: str,
    streams: Iterable[str],
    *,
    start_ms: int,
    end_ms: int,
    matches: Matcher,
    limit: int,
    token: str | None,
) -> Page:
    """Give one page of the events of some streams.

    Args:
        root: Root of the logs.
        group: Log group.
        streams: Names of its streams to read.
        start_ms: First moment, milliseconds since the epoch, included.
        end_ms: Last moment, included.
        matches: Test for messages.
        limit: Most events of a page.
        token: Token of the page before.

    Raises:
        ValueError: The token is not from this function.
    """
    after = _decode(token) if token else None
    events: list[LogEvent] = []
    size = 0
    for event in heapq.merge(*(_within(root, group, stream, start_ms, end_ms) for stream in streams), key=_position):
        if (after is not None and _position(event) <= after) or not matches(event.message):
            continue
        if len(events) == limit or size > PAGE_BYTES:
            return Page(events, _encode(events[-1]))
        events.append(event)
        size += len(event.message)
    return Page(events, None)


def _within(root: Path, group: str, stream: str, start_ms: int, end_ms: int) -> Iterator[LogEvent]:
    marks = read_marks(root, group, stream)
    if marks and marks[-1][1] < start_ms:  # no line is newer than the last mark
        return
    yield from (event for event in read_events(root, group, stream) if start_ms <= event.timestamp_ms <= end_ms)


def _position(event: LogEvent) -> tuple[int, str, int]:
    return event.timestamp_ms, event.stream, event.offset


def _encode(event: LogEvent) -> str:
    return base64.urlsafe_b64encode(json.dumps(_position(event)).encode()).decode()


def _decode(token: str) -> tuple[int, str, int]:
    timestamp_ms, stream, offset = json.loads(base64.urlsafe_b64decode(token))
    return int(timestamp_ms), str(stream), int(offset)
