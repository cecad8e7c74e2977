"""What fault injection has done, as lines in the functions' logs: they outlive the service that did it.

Knows log streams. Invariant: there is a line for each fault that came about, and none for one that did not: a kill
that was to come after the end of its invocation is no fault.
"""

from __future__ import annotations

from pathlib import Path

from estafeta.local.faults import FAULTS_NAME
from estafeta.local.logs import lines as report
from estafeta.local.logs.streams import LogStream
from estafeta.local.work.functions import FunctionVersion

MOST_OPEN = 16
"""Streams that are kept open: a service sees many versions, two for each run with faults of its own."""


class FaultLog:
    """A log stream for the faults of each function version, opened when one happens.

    Args:
        root: Of all log streams.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._streams: dict[tuple[str, str, str], LogStream] = {}

    def write(self, function: FunctionVersion, fault: str, request_id: str = "-") -> None:
        """Say that a fault has happened.

        Args:
            function: To which function.
            fault: Its name, as in `Faults`.
            request_id: Of the event; `-` if it is an environment that is slow.
        """
        stream = self._streams.pop(function.key, None)
        if stream is None:
            stream = LogStream(self._root, function.config.log_group, function.version)
        self._streams[function.key] = stream  # the last one is the one that was used last
        if len(self._streams) > MOST_OPEN:
            self._streams.pop(next(iter(self._streams))).close()
        stream.write(report.fault_line(request_id, fault, function.config.environment.get(FAULTS_NAME, "-")))

    def close(self) -> None:
        """Close the streams; what they hold stays."""
        for stream in self._streams.values():
            stream.close()
