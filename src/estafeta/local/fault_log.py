"""The injected faults as lines in the functions' logs, which outlive the service.

Invariant: each fault that happened has a line, and no other has one. A kill that was planned for a moment after the end
of its invocation is no fault.
"""

from pathlib import Path

from estafeta.local.faults import FAULTS_NAME
from estafeta.local.logs import lines as report
from estafeta.local.logs.streams import LogStream
from estafeta.local.work.functions import FunctionVersion

MOST_OPEN = 16
"""Number of streams that stay open. A service sees many versions: two for each run with faults of its own."""


class FaultLog:
    """A log stream for the faults of each function version, opened when one happens.

    Args:
        root: Root folder of all log streams.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._streams: dict[tuple[str, str, str], LogStream] = {}

    def write(self, function: FunctionVersion, fault: str, request_id: str = "-") -> None:
        """Log that a fault has happened.

        Args:
            function: Function that the fault hits.
            fault: Name of the fault, as in `Faults`.
            request_id: Request id of the event; `-` for a slow environment.
        """
        stream = self._streams.pop(function.key, None)
        if stream is None:
            stream = LogStream(self._root, function.config.log_group, function.version)
        self._streams[function.key] = stream  # the last entry is the last one used
        if len(self._streams) > MOST_OPEN:
            self._streams.pop(next(iter(self._streams))).close()
        stream.write(report.fault_line(request_id, fault, function.config.environment.get(FAULTS_NAME, "-")))

    def close(self) -> None:
        """Close the streams; their lines stay."""
        for stream in self._streams.values():
            stream.close()
