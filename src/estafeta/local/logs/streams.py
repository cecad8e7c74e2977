"""Log streams on disk: one text file per execution environment, and a small index of times beside it.

The function's process appends to the text file by itself; the service appends the platform's lines. This module knows
nothing of HTTP or of searching. Invariant: both files only grow until they are removed, and the index's offsets and
times never decrease. So a line behind an index entry was written at the entry's time or later.
"""

import logging
import os
import secrets
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

log = logging.getLogger(__name__)
TAIL_BYTES = 4096  # Lambda API reference, Invoke, X-Amz-Log-Result: the last 4 KB
_MARK = struct.Struct("<QQ")  # offset in the text, milliseconds since the epoch
_TEXT = ".log"
_INDEX = ".idx"


class LogStream:
    """One stream, open for appending.

    Attributes:
        name: `YYYY/MM/DD/[version]<32 hexadecimal digits>`, as on Lambda.
    """

    def __init__(self, root: Path, group: str, version: str) -> None:
        day = datetime.now(UTC).strftime("%Y/%m/%d")
        self.group = group
        self.name = f"{day}/[{version}]{secrets.token_hex(16)}"
        self.path = group_folder(root, group) / (self.name + _TEXT)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._text = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        self._index = os.open(self.path.with_suffix(_INDEX), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._last_ms = 0

    def write(self, text: str) -> int:
        """Append platform lines, marked with the present time.

        A full disk costs lines, and nothing else: the invocation has to end all the same.

        Returns:
            Offset of the text.
        """
        offset = os.fstat(self._text).st_size
        self._last_ms = max(self._last_ms, time.time_ns() // 1_000_000)  # the clock may be set back
        try:
            os.write(self._index, _MARK.pack(offset, self._last_ms))
            os.write(self._text, text.encode())
        except OSError as error:
            log.warning("lines of %s are lost: %s", self.path, error)
        return offset

    def tail(self, since: int) -> bytes:
        """The log from offset `since` on, at most its last 4 KB."""
        size = os.fstat(self._text).st_size
        start = max(since, size - TAIL_BYTES)
        return os.pread(self._text, size - start, start)

    def close(self) -> None:
        """Stop appending; the files stay."""
        os.close(self._text)
        os.close(self._index)


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One line of a stream.

    Attributes:
        timestamp_ms: Milliseconds since the epoch, from the last mark before the line.
        offset: Bytes before the line in the stream.
    """

    timestamp_ms: int
    stream: str
    offset: int
    message: str


def group_folder(root: Path, group: str) -> Path:
    """Folder of a log group."""
    return root / group.lstrip("/")


def stream_names(root: Path, group: str) -> list[str]:
    """All streams of a group, oldest day first."""
    folder = group_folder(root, group)
    found = folder.glob(f"[0-9]*/[0-9]*/[0-9]*/*{_TEXT}")
    return sorted(str(path.relative_to(folder))[: -len(_TEXT)] for path in found)


def remove_streams(root: Path, group: str, before_s: float) -> None:
    """Remove the streams of a group that have not grown since a time, in seconds since the epoch."""
    for stream in stream_names(root, group):
        text = group_folder(root, group) / (stream + _TEXT)
        with suppress(OSError):  # removed meanwhile; or the folder has another one
            if text.stat().st_mtime < before_s:
                text.unlink()
                text.with_suffix(_INDEX).unlink()
                text.parent.rmdir()


def read_marks(root: Path, group: str, stream: str) -> list[tuple[int, int]]:
    """The index of a stream: (offset, milliseconds since the epoch)."""
    data = (group_folder(root, group) / (stream + _INDEX)).read_bytes()
    return list(_MARK.iter_unpack(data[: len(data) // _MARK.size * _MARK.size]))


def read_events(root: Path, group: str, stream: str) -> Iterator[LogEvent]:
    """Every complete line of a stream, in order."""
    marks = iter(read_marks(root, group, stream))
    text = (group_folder(root, group) / (stream + _TEXT)).read_bytes()
    offset = 0
    mark = next(marks, None)
    timestamp_ms = mark[1] if mark else 0
    for line in text.split(b"\n")[:-1]:
        while mark and mark[0] <= offset:
            timestamp_ms = mark[1]
            mark = next(marks, None)
        if message := line.decode(errors="replace").strip("\r"):
            # The runtime client keeps a traceback in one event by joining its lines with carriage returns.
            yield LogEvent(timestamp_ms, stream, offset, message.replace("\r", "\n"))
        offset += len(line) + 1
